"""The service, end to end: python -m benchmarks.service [--cases tokens submits batch] [--quick] [--json FILE]

Shares are of the bare engine in the same run; peers are FastAPI with plain Celery, and celery-batches.
"""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.service.cases import batch_case, submits_case, tokens_case

TARGETS = {
    "share of the bare engine": 0.95,
    "submits/s": 1000.0,
    "p99 ms at 200/s": 100.0,
    "jobs/s": 2500.0,
}
AT_MOST = {"p99 ms at 200/s"}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table a case, write JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__)
    parser.add_argument(
        "--cases", nargs="+", choices=("tokens", "submits", "batch"), default=["tokens", "submits", "batch"]
    )
    parser.add_argument("--quick", action="store_true", help="see that all runs; its figures mean little")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    quick = options.quick
    runs = {
        "tokens": lambda folder: tokens_case(folder, 16 if quick else 256),
        "submits": lambda folder: submits_case(folder, 2 if quick else 15),
        "batch": lambda folder: batch_case(folder, 1000 if quick else 50_000, 200 if quick else 5000),
    }
    figures: dict[str, dict[str, float]] = {}
    for case in options.cases:
        with tempfile.TemporaryDirectory(prefix="batchmill-bench-", ignore_cleanup_errors=True) as folder:
            figures[case] = runs[case](Path(folder))
        _show(case, figures[case])
        if options.json:
            options.json.write_text(json.dumps(figures, indent=2) + "\n")


def _show(case: str, figures: dict[str, float]) -> None:
    print(case)
    for name, figure in figures.items():
        target = TARGETS.get(name)
        met = "" if target is None else "met" if (figure <= target) == (name in AT_MOST) else "MISSED"
        sign = "<=" if name in AT_MOST else ">="
        remark = "" if target is None else f"   target {sign} {target:,g}  {met}"
        print(f"  {name:36}{figure:12,.2f}{remark}", flush=True)


if __name__ == "__main__":
    main()
