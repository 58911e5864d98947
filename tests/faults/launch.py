"""A command of the product with faults built in: the product itself has no switch for them.

    python -m tests.faults.launch [--mutant NAME]... [--failpoint POINT=ACTION[@N]]... -- worker --rows 8

patches functions of the product in this process, and then is `batchmill worker --rows 8`. What that starts as a
process of its own (the worker of `serve`) is not patched.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.faults.failpoints import install
from tests.faults.mutants import MUTANTS

ROOT = Path(__file__).parents[2]
OURS = ("DATABASE_URL", "REDIS_URL", "BLOB_URL")


def command(
    *arguments: str, mutants: Sequence[str] = (), failpoints: Sequence[str] = (), module: str = "tests.faults.launch"
) -> list[str]:
    """The command line of `batchmill ARGUMENTS` with faults; `module` is this one, or one that does more before."""
    faults = [part for name in mutants for part in ("--mutant", name)]
    faults += [part for spec in failpoints for part in ("--failpoint", spec)]
    return [sys.executable, "-m", module, *faults, "--", *arguments]


def environment(**settings: str) -> dict[str, str]:
    """This process's environment with `settings`, but without settings of its own."""
    kept = {name: value for name, value in os.environ.items() if name not in OURS and not name.startswith("BATCHMILL_")}
    return kept | {"PYTHONPATH": str(ROOT), "BATCHMILL_THREADS": "1"} | settings


def start(
    *arguments: str,
    log: Path,
    settings: dict[str, str],
    mutants: Sequence[str] = (),
    failpoints: Sequence[str] = (),
    module: str = "tests.faults.launch",
) -> "subprocess.Popen[bytes]":
    """Start `batchmill ARGUMENTS` with faults, in the folder of its log, to which it appends."""
    with log.open("ab") as file:
        return subprocess.Popen(
            command(*arguments, mutants=mutants, failpoints=failpoints, module=module),
            cwd=log.parent,
            env=environment(**settings),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )


def main(arguments: Sequence[str]) -> None:
    """Patch, then be the command."""
    parser = argparse.ArgumentParser(prog="tests.faults.launch", description="Run a command with faults built in.")
    parser.add_argument("--mutant", action="append", default=[], choices=sorted(MUTANTS), metavar="NAME")
    parser.add_argument("--failpoint", action="append", default=[], metavar="POINT=ACTION[@N]")
    parser.add_argument("arguments", nargs="+", metavar="ARGUMENT")
    given = parser.parse_args(arguments)
    try:
        for spec in given.failpoint:
            install(spec)
    except ValueError as error:
        parser.error(str(error))
    for name in given.mutant:
        MUTANTS[name]()
    from cli.main import main as run

    sys.argv = ["batchmill", *given.arguments]
    run()


if __name__ == "__main__":
    main(sys.argv[1:])
