"""The whole command: ceilings, then for each shape a check and every workload; the files are written after each."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_bench import installed
from benchmarks.gpu_bench.case import Bench, Place, describe_error, say
from benchmarks.gpu_bench.ceilings import Ceilings, Sizes, measure_ceilings
from benchmarks.gpu_bench.check import check_model, check_shape
from benchmarks.gpu_bench.decoders import Decoder, OpenDecoder, release_memory
from benchmarks.gpu_bench.hugging_face import HuggingFaceModel, build_model, open_continuous, open_padded
from benchmarks.gpu_bench.limits import Limit
from benchmarks.gpu_bench.machine import describe_machine
from benchmarks.gpu_bench.ours import OURS, open_ours
from benchmarks.gpu_bench.records import Case, Check, Report, write_report
from benchmarks.gpu_bench.sample import Budget
from benchmarks.gpu_bench.shapes import CONFIGS, make_model, make_spec, random_weights
from benchmarks.gpu_bench.workloads import Workload
from worker.engine.loader import Model

HUGGING_FACE: dict[str, Callable[[HuggingFaceModel, Workload], AbstractContextManager[Decoder]]] = {
    "hf-generate": open_padded,
    "hf-continuous": open_continuous,
}
INSTALLED: dict[str, Callable[[dict[str, Any], str, Workload], AbstractContextManager[Decoder]]] = {
    "vllm": installed.open_vllm,
    "sglang": installed.open_sglang,
}
PEERS = (*HUGGING_FACE, *INSTALLED)
_CHECKED = "tiny"  # in float32, where every token must be the same


@dataclass(frozen=True)
class Options:
    """What is measured, where and for how long."""

    shapes: Sequence[str]
    workloads: Sequence[Workload]
    peers: Sequence[str]
    device: torch.device
    dtype: torch.dtype
    budget: Budget
    sizes: Sizes


@dataclass
class Session:
    """Measures, and keeps what was measured so far."""

    options: Options
    json_path: Path
    ceilings: Ceilings = field(init=False)
    checks: list[Check] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)

    def run(self) -> Report:
        """Measure everything. Only what goes wrong outside of the engines' runs is raised."""
        options = self.options
        say(f"ceilings of {options.device}")
        specs = [make_spec(shape) for shape in options.shapes]
        self.ceilings = measure_ceilings(specs, options.sizes, device=options.device, dtype=options.dtype)
        if _is_installed("hf-generate"):
            check = partial(check_shape, _CHECKED, device=options.device, dtype=torch.float32)
            self._check(_CHECKED, torch.float32, check)
        for index, shape in enumerate(options.shapes):
            self._run_shape(shape, shapes_left=len(options.shapes) - index)
        return self._report()

    def _run_shape(self, shape: str, *, shapes_left: int) -> None:
        """Make a model, check it, measure every workload; its memory is free again afterwards."""
        options = self.options
        release_memory(options.device)
        say(f"{shape}: random weights")
        spec = make_spec(shape)
        weights = random_weights(spec, device=options.device, dtype=options.dtype)
        model = make_model(shape, spec, weights, device=options.device, dtype=options.dtype)
        peer = build_model(CONFIGS[shape], spec, weights) if _is_installed("hf-generate") else None
        if peer is not None and (shape, options.dtype) != (_CHECKED, torch.float32):
            self._check(shape, options.dtype, partial(check_model, model, peer))
        limit = Limit(spec, options.dtype.itemsize, self.ceilings.peaks)
        place = Place(shape, limit, options.device, options.budget.part(shapes_left))
        self._run_workloads(place, dict(self._engines(shape, model, peer)))

    def _run_workloads(self, place: Place, engines: dict[str, OpenDecoder]) -> None:
        """Measure ours on all workloads before any peer: a slow peer then costs none of our figures."""
        benches = [Bench(place, workload) for workload in self.options.workloads]
        order = sorted(product(benches, engines), key=lambda item: item[1] != OURS)
        before = list(self.cases)
        for index, (bench, name) in enumerate(order):
            bench.measure(name, engines[name], runs_left=len(order) - index)
            self.cases = [*before, *(bench.as_case() for bench in benches)]
            write_report(self.json_path, self._report())
        release_memory(place.device)

    def _engines(self, shape: str, model: Model, peer: HuggingFaceModel | None) -> Iterator[tuple[str, OpenDecoder]]:
        """Ours, then the peers that are here."""
        yield OURS, partial(open_ours, model)
        for name in self.options.peers:
            if name in HUGGING_FACE and peer is not None:
                yield name, partial(HUGGING_FACE[name], peer)
            if name in INSTALLED and _is_installed(name):
                yield name, partial(INSTALLED[name], CONFIGS[shape], _name(self.options.dtype))

    def _check(self, shape: str, dtype: torch.dtype, run: Callable[[], Check]) -> None:
        """Note whether our engine is right. One that breaks off is not, and the rest is measured nevertheless."""
        try:
            check = run()
        except Exception as error:  # its reason goes into the report, and into the exit status
            check = Check(
                shape, _name(dtype), 0, math.nan, math.nan, math.nan, passed=False, fault=describe_error(error)
            )
        self.checks.append(check)
        say(f"{shape} {_name(dtype)}: {'right' if check.passed else f'WRONG {check.fault}'}")

    def _report(self) -> Report:
        return Report(
            machine=describe_machine(self.options.device),
            dtype=_name(self.options.dtype),
            ceilings=self.ceilings,
            checks=tuple(self.checks),
            cases=tuple(self.cases),
            absent={
                name: f"{_library(name)} is not installed" for name in self.options.peers if not _is_installed(name)
            },
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _library(peer: str) -> str:
    return "transformers" if peer in HUGGING_FACE else peer


def _is_installed(peer: str) -> bool:
    return find_spec(_library(peer)) is not None
