"""One workload on one shape: every engine, warmed up, timed, and compared with the serial limit."""

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch

from benchmarks.gpu_bench.decoders import Decoder, OpenDecoder, Timed, peak_bytes, release_memory, run_timed
from benchmarks.gpu_bench.limits import Limit
from benchmarks.gpu_bench.ours import OURS
from benchmarks.gpu_bench.records import Case, Phase, Run
from benchmarks.gpu_bench.sample import Budget, Sample, choose_sample, find_pace, left_of
from benchmarks.gpu_bench.workloads import Workload, cut, make_requests

NO_TIME = "no time was left"


@dataclass(frozen=True)
class Place:
    """Where, and against what, a shape is measured."""

    shape: str
    limit: Limit
    device: torch.device
    budget: Budget


@dataclass
class Bench:
    """A workload on a shape, as one engine after the other is measured; ours first, as answers are compared with it."""

    place: Place
    workload: Workload
    runs: list[Run] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    answers: list[list[int]] = field(default_factory=list)  # ours, once it ran

    def measure(self, name: str, open_decoder: OpenDecoder, *, runs_left: int) -> None:
        """Measure an engine in its share of the time. One that fails is left out and named with its reason."""
        place = self.place
        allowance = place.budget.share(runs_left)
        if allowance <= 0:
            self.skipped[name] = NO_TIME
            return
        say(f"{place.shape} {self.workload.name}: {name}, about {allowance:.0f} s")
        release_memory(place.device)
        try:
            run, tokens = _measure(place, self.workload, name, open_decoder, allowance)
        except Exception as error:  # its reason goes into the report, and whether it is ours into the exit status
            self.skipped[name] = describe_error(error)
            say(f"  {self.skipped[name]}")
            return
        if name == OURS:
            self.answers = tokens
        self.runs.append(replace(run, equal_answers=_count_equal(self.answers, tokens) if self.answers else None))
        say(f"  {run.tokens_per_second:,.0f} tok/s, {run.whole.of_limit:.1%} of the limit")

    def as_case(self) -> Case:
        """What was measured so far."""
        work = self.workload
        return Case(self.place.shape, work.name, work.rows, work.num_requests, tuple(self.runs), dict(self.skipped))


def _measure(
    place: Place, workload: Workload, name: str, open_decoder: OpenDecoder, allowance: float
) -> tuple[Run, list[list[int]]]:
    """Open an engine, see how fast it is, time it on what fits its time."""
    began = time.perf_counter()
    requests = make_requests(workload, place.limit.spec.vocab_size, seed=1)
    num_prefills = 2 if name == OURS else 1
    with ExitStack() as stack:
        decoder = stack.enter_context(open_decoder(workload))
        probes = make_requests(workload, place.limit.spec.vocab_size, seed=2)
        pace = find_pace(decoder, workload, probes, device=place.device, allowance=allowance)
        warm_up_seconds = time.perf_counter() - began
        sample = choose_sample(
            pace,
            requests,
            workload.rows,
            refills=decoder.refills,
            num_prefills=num_prefills,
            allowance=left_of(allowance, warm_up_seconds),
        )
        timed = run_timed(decoder, sample.requests, place.device)
        prefill_seconds = _time_prompts(place, workload, decoder, len(sample.requests)) if name == OURS else None
        run = _as_run(place, workload, name, sample, timed, prefill_seconds)
        return replace(run, warm_up_seconds=warm_up_seconds, remark=decoder.remark), timed.tokens


def _time_prompts(place: Place, workload: Workload, decoder: Decoder, num_requests: int) -> float:
    """Time prompts of the same lengths alone.

    A run of its own, since on a GPU the host's clock in a step says little of which kernels ran in it; other tokens, so
    that no beginning of theirs is known already.
    """
    prompts = make_requests(workload, place.limit.spec.vocab_size, seed=4)[:num_requests]
    return run_timed(decoder, cut(prompts, most=1), place.device).seconds


def _as_run(
    place: Place, workload: Workload, name: str, sample: Sample, timed: Timed, prefill_seconds: float | None
) -> Run:
    limit, requests = place.limit, sample.requests
    prompts = limit.prefill(requests, workload.rows, shared_tokens=workload.shared_tokens)
    steps = limit.decode(requests, workload.rows)
    split = prefill_seconds is not None and prefill_seconds < timed.seconds
    return Run(
        engine=name,
        num_requests=len(sample.requests),
        output_scale=sample.output_scale,
        output_tokens=sum(map(len, timed.tokens)),
        warm_up_seconds=0.0,
        whole=Phase(timed.seconds, prompts + steps),
        prefill=None if prefill_seconds is None else Phase(prefill_seconds, prompts),
        decode=Phase(timed.seconds - (prefill_seconds or 0.0), steps) if split else None,
        peak_bytes=peak_bytes(place.device),
        equal_answers=None,
        remark="",
    )


def _count_equal(answers: list[list[int]], tokens: list[list[int]]) -> int:
    """Count the prompts, of those both were given, whose answers are equal as far as both go."""
    pairs = zip(answers, tokens, strict=False)
    return sum(all(a == b for a, b in zip(ours, theirs, strict=False)) for ours, theirs in pairs)


def describe_error(error: Exception) -> str:
    """Its kind and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def say(line: str) -> None:
    """Report progress."""
    print(line, file=sys.stderr, flush=True)
