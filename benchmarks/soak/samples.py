"""What is looked at during a run, and what must hold of it: rates by tenths, memory, what is left over."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

MIB = float(1 << 20)
MIN_LAST_RATE = 0.9  # of the first tenth's
MAX_GROWTH = 0.05  # of resident memory, from the second tenth to the last
MAX_GROWTH_BYTES = 10 * MIB  # where that is more
TENTHS = 10


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. `seconds` since the start; of each process: resident bytes, open file descriptors, threads."""

    seconds: float
    num_done: int
    memory: Mapping[str, int]
    files: Mapping[str, int]
    threads: Mapping[str, int]
    connections: int


@dataclass(frozen=True, slots=True)
class Tenth:
    """A tenth of the jobs. Memory and open things are medians of its samples."""

    seconds: float
    rate: float
    memory: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that must hold, in words with its figures."""

    name: str
    holds: bool
    figures: str


def tenths(samples: Sequence[Sample], num_jobs: int) -> list[Tenth]:
    """Cut a run into tenths of its jobs. The clock starts with the first jobs that were seen done."""
    running = [sample for sample in samples if sample.num_done]
    marks = [running[0].num_done + (num_jobs - running[0].num_done) * number / TENTHS for number in range(TENTHS + 1)]
    times = [_time_of(running, mark) for mark in marks]
    found = []
    for began, ended, low, high in (
        (*when, *what) for when, what in zip(pairwise(times), pairwise(marks), strict=True)
    ):
        inside = [sample for sample in running if began <= sample.seconds <= ended] or [_last_before(running, ended)]
        memory = {name: statistics.median(sample.memory[name] for sample in inside) for name in inside[0].memory}
        found.append(Tenth(ended - began, (high - low) / max(ended - began, 1e-9), memory))
    return found


def _time_of(samples: Sequence[Sample], mark: float) -> float:
    """When so many jobs were done, between two looks as if they came evenly."""
    for before, after in pairwise(samples):
        if after.num_done >= mark:
            gained = after.num_done - before.num_done
            share = (mark - before.num_done) / gained if gained else 0.0
            return before.seconds + share * (after.seconds - before.seconds)
    return samples[-1].seconds


def _last_before(samples: Sequence[Sample], seconds: float) -> Sample:
    return max((sample for sample in samples if sample.seconds <= seconds), key=lambda sample: sample.seconds)


def judge(parts: Sequence[Tenth], watched: Sequence[str]) -> list[Verdict]:
    """Throughput and the memory of the processes that are watched: flat or not."""
    first, last = parts[0].rate, parts[-1].rate
    verdicts = [Verdict("throughput is flat", last >= MIN_LAST_RATE * first, f"{last:,.0f}/s after {first:,.0f}/s")]
    for name in watched:
        early, late = parts[1].memory[name], parts[-1].memory[name]
        is_flat = late - early <= max(MAX_GROWTH * early, MAX_GROWTH_BYTES)
        verdicts.append(Verdict(f"memory of {name} is flat", is_flat, f"{early / MIB:.1f} to {late / MIB:.1f} MiB"))
    return verdicts


def judge_open(early: Sequence[Sample], last: Sample) -> list[Verdict]:
    """No more files, threads and connections when all is done than there were at any early moment."""
    verdicts = []
    for kind in ("files", "threads"):
        for name, number in getattr(last, kind).items():
            most = max(getattr(sample, kind)[name] for sample in early)
            verdicts.append(Verdict(f"{kind} of {name}", number <= most, f"{most} to {number}"))
    most = max(sample.connections for sample in early)
    return [*verdicts, Verdict("database connections", last.connections <= most, f"{most} to {last.connections}")]


def judge_nothing_left(left: Mapping[str, int]) -> list[Verdict]:
    """Each of these numbers is zero."""
    return [Verdict(f"no {name} left", number == 0, str(number)) for name, number in left.items()]
