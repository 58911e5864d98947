"""The cases as a table and as JSON."""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.engine.case import Case, Compared
from benchmarks.engine.figures import Figure

_LIBRARIES = ("torch", "transformers", "llama-cpp-python")
_SHARES_SHOWN = 6


def as_table(case: Case) -> str:
    """The case as lines of text."""
    info = case.info
    lines = [
        f"{case.shape} {info.dtype}: {info.num_parameters / 1e6:.1f}M parameters, {case.num_jobs} jobs, "
        f"{info.rows} rows, {', '.join(info.fast_paths.values())}",
        f"  {'engine':<20}{'tokens':>8}{'CPU s':>9}{'wall s':>9}{'tok/CPU s':>11}{'tok/s':>8}{'ours over':>11}"
        "  same answers (expected in float32)",
        *(_engine_line(compared, case) for compared in case.results),
        *(f"  {name:<20} not run: {reason}" for name, reason in case.skipped.items()),
        f"  {'figure':<32}{'measured':>14}  target",
        *(_figure_line(figure) for figure in case.figures),
        f"  time by module: {_shares(case)}",
    ]
    return "\n".join(lines)


def _engine_line(compared: Compared, case: Case) -> str:
    result, ours = compared.result, case.results[0].result
    return (
        f"  {result.name:<20}{result.output_tokens:>8}{result.cpu_seconds:>9.1f}{result.wall_seconds:>9.1f}"
        f"{result.tokens_per_second:>11.0f}{result.output_tokens / result.wall_seconds:>8.0f}"
        f"{ours.tokens_per_second / result.tokens_per_second:>10.2f}x  {compared.equal_answers} of {case.num_jobs}"
    )


def _figure_line(figure: Figure) -> str:
    verdict = {True: "met", False: "MISSED", None: ""}[figure.met]
    remark = f"({figure.remark})" if figure.remark else ""
    measured = f"{_amount(figure.value, figure.unit):>14}  {_target(figure):<9}"
    return f"  {figure.name:<32}{measured}{verdict:<7}{remark}".rstrip()


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return {"times": f"{value:.2f}x", "share": f"{value:.1%}", "GFLOP/s": f"{value:.0f} GFLOP/s"}[unit]


def _target(figure: Figure) -> str:
    if figure.at_least is not None:
        return f">= {_amount(figure.at_least, figure.unit)}"
    return f"<= {_amount(figure.at_most, figure.unit)}" if figure.at_most is not None else ""


def _shares(case: Case) -> str:
    largest = list(case.shares.items())[:_SHARES_SHOWN]
    rest = 1 - sum(share for _, share in largest)
    return ", ".join(f"{name} {share:.0%}" for name, share in [*largest, ("the rest", rest)])


def as_json(cases: Sequence[Case]) -> dict[str, Any]:
    """Everything measured, and on what."""
    return {"machine": describe_machine(), "cases": [_case_json(case) for case in cases]}


def _case_json(case: Case) -> dict[str, Any]:
    results = [
        asdict(compared.result)
        | {"tokens_per_cpu_second": compared.result.tokens_per_second, "equal_answers": compared.equal_answers}
        for compared in case.results
    ]
    figures = [asdict(figure) | {"met": figure.met} for figure in case.figures]
    return asdict(case) | {"results": results, "figures": figures}


def describe_machine() -> dict[str, str]:
    """The processor and the versions of what ran."""
    return {"processor": _processor(), "python": platform.python_version(), **_versions()}


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # an optional peer
            found[name] = "not installed"
    return found
