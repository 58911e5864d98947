"""How much of a workload an engine is given: all of it, or what its share of the time allows."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from benchmarks.engine.work import Work
from benchmarks.gpu_bench.decoders import Decoder, run_timed
from benchmarks.gpu_bench.limits import occupancy
from benchmarks.gpu_bench.workloads import Workload, cut, make_warm_up

_SHORT_PROMPT = 128
_PROBE_STEPS = (2, 10)  # new tokens of two short runs: the difference is that of the steps between
_PROBE_SHARE = 8  # of the rows, an eighth shows how long prompts take
_LEAST_SHARE = 0.25  # of an engine's time that is left for its run, however long its start took
_LEAST_OUTPUTS = 1 / 16


@dataclass
class Budget:
    """Time that is shared evenly among the runs still to come."""

    seconds: float
    clock: Callable[[], float] = time.perf_counter
    began: float = field(init=False)

    def __post_init__(self) -> None:
        """Start counting."""
        self.began = self.clock()

    def share(self, runs_left: int) -> float:
        """Seconds for the next run; below zero there are none left."""
        return (self.seconds - (self.clock() - self.began)) / runs_left

    def part(self, parts_left: int) -> "Budget":
        """Begin a share of what is left: who overruns it takes little from the others."""
        return Budget(self.share(parts_left), self.clock)


@dataclass(frozen=True)
class Pace:
    """How fast an engine is on a workload, as far as short runs tell."""

    prompt_seconds: float  # for one prompt among many
    step_seconds: float  # for one decode step with all rows live

    def seconds(self, requests: Sequence[Work], rows: int, *, refills: bool, num_prefills: int) -> float:
        """Estimate how long requests take, their prompts run num_prefills times."""
        num_steps = sum(_batch_steps(requests, rows))
        if refills:
            num_steps = sum(occupancy([item.num_new_tokens for item in requests], rows).values())
        return self.prompt_seconds * len(requests) * num_prefills + self.step_seconds * num_steps


@dataclass(frozen=True)
class Sample:
    """The requests an engine is given, of a workload's the first ones, with outputs cut to a share."""

    requests: list[Work]
    output_scale: float


def find_pace(
    decoder: Decoder, workload: Workload, requests: Sequence[Work], *, device: torch.device, allowance: float
) -> Pace:
    """Warm an engine up and time three short runs of some requests, with whole prompts where those are quick."""
    first = requests[: workload.rows]
    decoder(make_warm_up(cut(first, prompt=_SHORT_PROMPT), workload.rows, longest=workload.longest))
    few = first[: -(-len(first) // _PROBE_SHARE)]
    prompt_seconds = run_timed(decoder, cut(few, most=1), device).seconds / len(few)
    prompt = None if prompt_seconds * len(first) < allowance / _PROBE_SHARE else _SHORT_PROMPT
    short, long = (cut(first, prompt=prompt, most=most) for most in _PROBE_STEPS)
    seconds = run_timed(decoder, long, device).seconds - run_timed(decoder, short, device).seconds
    num_steps = max(item.num_new_tokens for item in long) - max(item.num_new_tokens for item in short)
    return Pace(prompt_seconds, max(seconds, 0.0) / num_steps)


def choose_sample(
    pace: Pace, requests: list[Work], rows: int, *, refills: bool, num_prefills: int, allowance: float
) -> Sample:
    """Halve the requests until they take no longer than allowed, or fill the rows but once; then cut the outputs."""

    def seconds(some: list[Work]) -> float:
        return pace.seconds(some, rows, refills=refills, num_prefills=num_prefills)

    while seconds(requests) > allowance and len(requests) > rows:
        requests = requests[: max(rows, len(requests) // 2)]
    scale = 1.0
    while seconds(cut(requests, outputs=scale)) > allowance and scale > _LEAST_OUTPUTS:
        scale /= 2
    return Sample(cut(requests, outputs=scale), scale)


def left_of(allowance: float, spent: float) -> float:
    """What is left of an engine's time for its run."""
    return max(allowance - spent, allowance * _LEAST_SHARE)


def _batch_steps(requests: Sequence[Work], rows: int) -> list[int]:
    """Steps of each batch, where prompts of like length make one, and it is as long as its longest answer."""
    ordered = sorted(requests, key=lambda item: len(item.prompt))
    return [
        max(item.num_new_tokens for item in ordered[start : start + rows]) for start in range(0, len(ordered), rows)
    ]
