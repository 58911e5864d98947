"""What this project wants to reach on a GPU, beside what was measured. Ratios within one run only."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.gpu_bench.ours import OURS
from benchmarks.gpu_bench.records import Case, Report, Run

_PEER = "hf-continuous"


@dataclass(frozen=True)
class Verdict:
    """A target; without a value its case was not measured."""

    name: str
    value: float | None
    at_least: float

    @property
    def met(self) -> bool | None:
        """Whether it is reached; None where nothing was measured."""
        return None if self.value is None else self.value >= self.at_least


def judge_targets(report: Report) -> list[Verdict]:
    """Compare a report with every target."""
    peak = report.ceilings.peaks.flops_per_second

    def utilisation(run: Run) -> float | None:
        return run.prefill.flops_per_second / peak if run.prefill else None

    def decode(run: Run) -> float | None:
        return run.decode.of_limit if run.decode else None

    return [
        Verdict("8B decode-bound, decode over the serial limit", _ours(report, "decode-bound", decode), 0.85),
        Verdict("8B prefill-bound, utilisation of the prompts", _ours(report, "prefill-bound", utilisation), 0.75),
        Verdict(f"8B, least over {_PEER}", _least_over_peer(report, "8B"), 2.0),
        Verdict(f"0.6B, least over {_PEER}", _least_over_peer(report, "0.6B"), 3.0),
    ]


def _ours(report: Report, workload: str, figure: Callable[[Run], float | None]) -> float | None:
    cases = (case for case in report.cases if (case.shape, case.workload) == ("8B", workload))
    return next((figure(run) for run in _runs(cases, OURS)), None)


def _least_over_peer(report: Report, shape: str) -> float | None:
    """Our tokens per second over the peer's in the workload where that is least."""
    cases = [case for case in report.cases if case.shape == shape]
    ratios = [
        ours.tokens_per_second / peer.tokens_per_second
        for case in cases
        for ours in _runs([case], OURS)
        for peer in _runs([case], _PEER)
    ]
    return min(ratios, default=None)


def _runs(cases: Iterable[Case], engine: str) -> list[Run]:
    return [run for case in cases for run in case.runs if run.engine == engine]
