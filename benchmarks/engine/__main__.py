"""The engine beside its peers, on the same greedy work in one run, one thread.

python -m benchmarks.engine [--quick] [--shapes 15M 114M] [--dtypes float32 bfloat16] [--peers ...] [--json FILE]
    [--chart FILE]
"""

import argparse
import json
from pathlib import Path

import torch

from benchmarks.engine.case import Options, run_case
from benchmarks.engine.chart import save_chart
from benchmarks.engine.peers import PEERS
from benchmarks.engine.report import as_json, as_table, describe_machine
from benchmarks.engine.work import SHAPES

DTYPES = ("float32", "bfloat16")
FULL_JOBS, FULL_PREFIX_JOBS = 256, 64
QUICK_JOBS, QUICK_ROWS, QUICK_PREFIX_JOBS = 48, 16, 8


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; --quick only changes defaults."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a minute to see that all runs; its figures mean little")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), help="default: all; with --quick 15M")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="default: all; with --quick float32")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS), help="default: all installed")
    parser.add_argument("--jobs", type=int, help=f"default {FULL_JOBS}; with --quick {QUICK_JOBS}")
    parser.add_argument("--rows", type=int, help=f"default: the engine's own; with --quick {QUICK_ROWS}")
    parser.add_argument("--prefix-jobs", type=int, help=f"default {FULL_PREFIX_JOBS}; with --quick {QUICK_PREFIX_JOBS}")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--chart", type=Path, help="write a bar chart (PNG)")
    args = parser.parse_args(arguments)
    quick = {"shapes": ["15M"], "dtypes": ["float32"], "jobs": QUICK_JOBS, "rows": QUICK_ROWS}
    full = {"shapes": list(SHAPES), "dtypes": list(DTYPES), "jobs": FULL_JOBS, "rows": None}
    defaults = quick | {"prefix_jobs": QUICK_PREFIX_JOBS} if args.quick else full | {"prefix_jobs": FULL_PREFIX_JOBS}
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def main(arguments: list[str] | None = None) -> None:
    """Run every case, printing each as it ends and writing the files again after each."""
    args = parse(arguments)
    torch.set_num_threads(1)
    options = Options(peers=args.peers, num_jobs=args.jobs, rows=args.rows, num_prefix_jobs=args.prefix_jobs)
    cases = []
    for shape in args.shapes:
        for dtype in args.dtypes:
            cases.append(run_case(shape, dtype, options))
            print(as_table(cases[-1]), flush=True)
            if args.json:
                args.json.write_text(json.dumps(as_json(cases), indent=2) + "\n")
            if args.chart:
                save_chart(args.chart, cases, describe_machine()["processor"])


if __name__ == "__main__":
    main()
