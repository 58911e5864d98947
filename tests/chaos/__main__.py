"""python -m tests.chaos --profile NAME --seed N [--seconds S] [--mutant NAME]... [--picture FILE] [--logs FILE]

Runs the service as processes, breaks what can break around it, and says whether a promise was broken: exit status 1.
"""

import argparse
import sys
from pathlib import Path

from tests.chaos.picture import draw
from tests.chaos.profiles import PROFILES
from tests.chaos.run import run
from tests.faults.mutants import MUTANTS


def main() -> int:
    """Run once and print the verdict."""
    parser = argparse.ArgumentParser(prog="tests.chaos", description="Break everything around the service.")
    parser.add_argument("--profile", default="mixed", choices=sorted(PROFILES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="how long there are faults (default: the profile's)")
    parser.add_argument("--mutant", action="append", default=[], choices=sorted(MUTANTS))
    parser.add_argument("--picture", type=Path, help="draw the run into this file")
    parser.add_argument("--logs", type=Path, help="write what every process logged into this file")
    given = parser.parse_args()
    verdict = run(given.profile, given.seed, seconds=given.seconds, mutants=given.mutant)
    if given.logs:
        given.logs.write_text(verdict.logs)
    if given.picture:
        draw(verdict, given.picture)
    sys.stdout.write(verdict.text() + "\n")
    return 1 if verdict.violations else 0


if __name__ == "__main__":
    sys.exit(main())
