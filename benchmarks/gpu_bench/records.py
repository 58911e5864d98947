"""What was measured, as plain data: written to JSON and read from it again, for the table and the picture."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_bench.ceilings import Ceilings, Product
from benchmarks.gpu_bench.limits import Cost


@dataclass(frozen=True)
class Phase:
    """Some work, how long it took, and what the serial limit says of it."""

    seconds: float
    cost: Cost

    @property
    def of_limit(self) -> float:
        """Share of the serial limit reached: 1 is as fast as one kernel after the other can be."""
        return self.cost.seconds / self.seconds

    @property
    def flops_per_second(self) -> float:
        """Useful arithmetic per second."""
        return self.cost.flops / self.seconds

    @property
    def intensity(self) -> float:
        """FLOPs per byte that must be read."""
        return self.cost.flops / self.cost.num_bytes


@dataclass(frozen=True)
class Run:
    """One engine on a workload, or on as much of it as its share of the time allowed."""

    engine: str
    num_requests: int
    output_scale: float  # outputs were cut to this share of the workload's
    output_tokens: int
    warm_up_seconds: float  # not in any other figure: loading, capturing, short runs to see how long the whole takes
    whole: Phase
    prefill: Phase | None  # of the same lengths with other tokens, one new token each: a run of its own
    decode: Phase | None  # the whole run less that one
    peak_bytes: int | None
    equal_answers: int | None  # of its answers, those that are ours; of float32 only is that to be expected
    remark: str

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second of the whole run, prompts included."""
        return self.output_tokens / self.whole.seconds


@dataclass(frozen=True)
class Check:
    """Logprobs of our engine's greedy tokens against Hugging Face's for the same tokens."""

    shape: str
    dtype: str
    num_tokens: int
    mean_difference: float  # absolute, in nats
    max_difference: float
    same_choice: float  # share of the tokens that Hugging Face would have chosen as well
    passed: bool
    fault: str = ""  # what it broke off with, before anything could be compared


@dataclass(frozen=True)
class Case:
    """A workload on a shape."""

    shape: str
    workload: str
    rows: int
    num_requests: int
    runs: tuple[Run, ...]  # ours first, if it ran
    skipped: dict[str, str]  # engine -> why


@dataclass(frozen=True)
class Report:
    """Everything measured, and on what."""

    machine: dict[str, str]
    dtype: str
    ceilings: Ceilings
    checks: tuple[Check, ...]
    cases: tuple[Case, ...]
    absent: dict[str, str]  # peers that were asked for and are not here -> why


def write_report(path: Path, report: Report) -> None:
    """Write JSON."""
    path.write_text(json.dumps(asdict(report), indent=2) + "\n")


def read_report(path: Path) -> Report:
    """Read what `write_report` wrote. Raises KeyError or TypeError for anything else."""
    data = json.loads(path.read_text())
    products = tuple(Product(**product) for product in data["ceilings"]["products"])
    return Report(
        machine=data["machine"],
        dtype=data["dtype"],
        ceilings=Ceilings(**{**data["ceilings"], "products": products}),
        checks=tuple(Check(**check) for check in data["checks"]),
        cases=tuple(Case(**{**case, "runs": tuple(map(_read_run, case["runs"]))}) for case in data["cases"]),
        absent=data["absent"],
    )


def _read_run(data: Mapping[str, Any]) -> Run:
    phases = {name: _read_phase(data[name]) for name in ("prefill", "decode")}
    return Run(**{**data, **phases, "whole": Phase(data["whole"]["seconds"], Cost(**data["whole"]["cost"]))})


def _read_phase(data: Mapping[str, Any] | None) -> Phase | None:
    return None if data is None else Phase(data["seconds"], Cost(**data["cost"]))
