"""The report as text: ceilings, checks, and a table for each shape."""

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import groupby

from benchmarks.gpu_bench.ceilings import Product
from benchmarks.gpu_bench.ours import OURS
from benchmarks.gpu_bench.records import Case, Check, Phase, Report, Run
from benchmarks.gpu_bench.targets import Verdict, judge_targets

_COLUMNS = (
    *("workload", "rows", "engine", "tok/s", "ours over", "of limit", "decode of limit", "prefill MFU"),
    *("requests", "GB", "warm-up s", "remark"),
)
_LEFT = {"workload", "engine", "remark"}  # the other columns are numbers


def print_report(report: Report) -> None:
    """Print everything, with rich where it is installed."""
    for line in [*_ceiling_lines(report), *map(_check_line, report.checks)]:
        print(line)
    for name, why in report.absent.items():
        print(f"{name} was not run: {why}")
    for shape, found in groupby(report.cases, key=lambda case: case.shape):
        cases = list(found)
        remark = next((f"; {OURS}: {run.remark}" for case in cases for run in case.runs if run.engine == OURS), "")
        rows = [row for case in cases for row in case_rows(case, report.ceilings.peaks.flops_per_second)]
        print()
        _print_table(f"{shape}, {report.dtype}{remark}", rows)
    for verdict in judge_targets(report):
        print(_verdict_line(verdict))


def case_rows(case: Case, peak_flops: float) -> list[list[str]]:
    """A line for each engine that ran, and for each that did not, with the reason."""
    ours = next((run for run in case.runs if run.engine == OURS), None)
    lines = [_run_row(case, run, ours, peak_flops) for run in case.runs]
    empty = [""] * (len(_COLUMNS) - 4)
    return lines + [
        [case.workload, str(case.rows), name, *empty, f"not run: {why}"] for name, why in case.skipped.items()
    ]


def _run_row(case: Case, run: Run, ours: Run | None, peak_flops: float) -> list[str]:
    over = "" if ours is None or run is ours else f"{ours.tokens_per_second / run.tokens_per_second:.2f}x"
    return [
        case.workload,
        str(case.rows),
        run.engine,
        f"{run.tokens_per_second:,.0f}",
        over,
        f"{run.whole.of_limit:.1%}",
        f"{run.decode.of_limit:.1%}" if run.decode else "",
        _utilisation(run.prefill, peak_flops),
        f"{run.num_requests} of {case.num_requests}",
        "" if run.peak_bytes is None else f"{run.peak_bytes / 1e9:.1f}",
        f"{run.warm_up_seconds:.1f}",
        _remark(run),
    ]


def _utilisation(phase: Phase | None, peak_flops: float) -> str:
    return "" if phase is None else f"{phase.flops_per_second / peak_flops:.1%}"


def _remark(run: Run) -> str:
    remarks = [f"outputs cut to {run.output_scale:.0%}"] if run.output_scale < 1 else []
    if run.engine != OURS:
        remarks += [] if run.equal_answers is None else [f"{run.equal_answers} answers as ours"]
        remarks += [run.remark] if run.remark else []
    return "; ".join(remarks)


def _ceiling_lines(report: Report) -> list[str]:
    ceilings = report.ceilings
    best = max(ceilings.products, key=lambda product: product.flops_per_second)
    return [
        ", ".join(f"{name} {value}" for name, value in report.machine.items()),
        f"copy {ceilings.copy_bytes_per_second / 1e9:,.0f} GB/s (read and written), "
        f"matrix product {best.flops_per_second / 1e12:,.3g} TFLOP/s ({best.tokens} x {best.inner} x {best.out}, "
        f"{report.dtype}), kernel launch {ceilings.launch_seconds * 1e6:.1f} us",
        *(_products_line(tokens, ceilings.products) for tokens in sorted({each.tokens for each in ceilings.products})),
    ]


def _products_line(tokens: int, products: Sequence[Product]) -> str:
    rates = [product.flops_per_second / 1e12 for product in products if product.tokens == tokens]
    return f"  with {tokens} rows: {min(rates):,.3g} to {max(rates):,.3g} TFLOP/s ({len(rates)} measured)"


def _check_line(check: Check) -> str:
    if check.fault:
        return f"WRONG: {check.shape} {check.dtype}, no comparison: {check.fault}"
    return (
        f"{'right' if check.passed else 'WRONG'}: {check.shape} {check.dtype} against Hugging Face, "
        f"{check.num_tokens} tokens: logprobs differ by {check.mean_difference:.2g} nats on average, "
        f"{check.max_difference:.2g} at most; {check.same_choice:.1%} same choices"
    )


def _verdict_line(verdict: Verdict) -> str:
    measured = "not measured" if verdict.value is None else f"{verdict.value:.2f}"
    word = {True: "met", False: "MISSED", None: ""}[verdict.met]
    return f"target: {verdict.name} >= {verdict.at_least}: {measured} {word}".rstrip()


def _print_table(title: str, rows: Sequence[Sequence[str]]) -> None:
    """Print by rich where it is installed and the terminal is wide enough; plainly elsewhere, as into a file."""
    text = as_text(title, rows)
    if find_spec("rich") is None:
        print(text)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(title=title, title_justify="left")
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in _LEFT else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    fits = console.is_terminal and console.measure(table).maximum <= console.width
    console.print(table if fits else Text(text), soft_wrap=not fits)


def as_text(title: str, rows: Sequence[Sequence[str]]) -> str:
    """The table as aligned lines."""
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        placed = zip(_COLUMNS, cells, widths, strict=True)
        return "  ".join(
            cell.ljust(width) if name in _LEFT else cell.rjust(width) for name, cell, width in placed
        ).rstrip()

    return "\n".join([title, line(_COLUMNS), *map(line, rows)])
