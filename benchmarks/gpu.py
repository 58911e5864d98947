"""The engine on a GPU beside its peers on the same machine, against what the device can do; no service needed.

python -m benchmarks.gpu [--shapes 0.6B 1B 8B] [--workloads ...] [--peers ...] [--rows N] [--device cuda]
    [--dtype bfloat16] [--budget-seconds 500] [--quick] [-o FOLDER]
python -m benchmarks.gpu --draw FOLDER/gpu.json

Prints a table; writes gpu.json, again after every run, and gpu.png. The status is 1 where our engine gave wrong
answers or failed.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.gpu_bench.case import NO_TIME, say
from benchmarks.gpu_bench.ceilings import LARGE, SMALL
from benchmarks.gpu_bench.ours import OURS
from benchmarks.gpu_bench.records import Report, read_report
from benchmarks.gpu_bench.sample import Budget
from benchmarks.gpu_bench.session import PEERS, Options, Session
from benchmarks.gpu_bench.shapes import CONFIGS, PUBLISHED
from benchmarks.gpu_bench.table import print_report
from benchmarks.gpu_bench.workloads import WORKLOADS, Workload, shrunk, with_rows
from worker.engine.loader import choose_device

BUDGET_SECONDS, QUICK_BUDGET_SECONDS = 500.0, 40.0  # with its start, the whole command stays below ten minutes
QUICK_ROWS, QUICK_TOKENS_BY = 8, 16
JSON_NAME, PICTURE_NAME = "gpu.json", "gpu.png"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=list(CONFIGS), default=list(PUBLISHED))
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="default: all installed")
    parser.add_argument("--rows", type=int, help="decoded together, except alone; default: the workload's own")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--dtype", choices=["bfloat16", "float32", "float16"], help="default: bfloat16; float32 on a CPU"
    )
    parser.add_argument("--budget-seconds", type=float, help=f"default {BUDGET_SECONDS:.0f}, shared by all runs")
    parser.add_argument("--quick", action="store_true", help="short work in 8 rows, to see that all runs")
    parser.add_argument("-o", "--output", type=Path, default=Path(), metavar="FOLDER", help="default: this one")
    parser.add_argument("--draw", type=Path, metavar="JSON", help="only print and draw what was measured before")
    return parser.parse_args(arguments)


def choose(args: argparse.Namespace) -> Options:
    """Turn the command line into what is to be measured."""
    device = choose_device(args.device)
    dtype = args.dtype or ("float32" if device.type == "cpu" else "bfloat16")
    return Options(
        shapes=args.shapes,
        workloads=[adapt(WORKLOADS[name], rows=args.rows, quick=args.quick) for name in args.workloads],
        peers=args.peers,
        device=device,
        dtype=getattr(torch, dtype),
        budget=Budget(args.budget_seconds or (QUICK_BUDGET_SECONDS if args.quick else BUDGET_SECONDS)),
        sizes=SMALL if device.type == "cpu" else LARGE,
    )


def adapt(workload: Workload, *, rows: int | None, quick: bool) -> Workload:
    """Change a workload as the command line says."""
    if quick:
        return shrunk(workload, tokens_by=QUICK_TOKENS_BY, rows=rows or QUICK_ROWS)
    return with_rows(workload, rows) if rows else workload


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, or draw what was measured; give the exit status."""
    args = parse(arguments)
    if args.draw:
        show(read_report(args.draw), args.draw)
        return 0
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched, and nothing waits for a network
    options = choose(args)
    if options.device.type == "cpu":
        torch.set_num_threads(1)
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / JSON_NAME
    report = Session(options, path).run()
    show(report, path)
    return int(has_failed(report))


def show(report: Report, path: Path) -> None:
    """Print the table, and draw the picture beside the JSON where there is matplotlib."""
    print_report(report)
    if find_spec("matplotlib") is None:
        say(f"no matplotlib here; where there is: python -m benchmarks.gpu --draw {path}")
        return
    from benchmarks.gpu_bench.picture import save_picture

    save_picture(path.with_name(PICTURE_NAME), report)


def has_failed(report: Report) -> bool:
    """Whether our engine was wrong or did not run; having had no time left is no failure."""
    ran = [any(run.engine == OURS for run in case.runs) or case.skipped[OURS] == NO_TIME for case in report.cases]
    return not all(ran) or not all(check.passed for check in report.checks)


if __name__ == "__main__":
    sys.exit(main())
