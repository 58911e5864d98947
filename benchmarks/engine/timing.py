"""Seconds, and what was done in them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.engine.work import Decode, Work

BUDGET_SECONDS = 0.03  # at least so long is a short call repeated
_MIN_CALLS = 3


@dataclass(frozen=True)
class Result:
    """What one engine did with the work."""

    name: str
    output_tokens: int
    cpu_seconds: float
    wall_seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per CPU second."""
        return self.output_tokens / self.cpu_seconds


def measure(name: str, decode: Decode, work: Sequence[Work]) -> tuple[Result, list[list[int]]]:
    """Time one engine on the work, and give its answers."""
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = decode(work)
    result = Result(
        name=name,
        output_tokens=sum(map(len, tokens)),
        cpu_seconds=time.process_time() - cpu,
        wall_seconds=time.perf_counter() - wall,
    )
    return result, tokens


def best_seconds(function: Callable[[], object]) -> float:
    """CPU seconds of the quickest call among as many as fit the budget; a first one is not counted."""
    function()
    best, spent, num_calls = float("inf"), 0.0, 0
    while spent < BUDGET_SECONDS or num_calls < _MIN_CALLS:
        began = time.process_time()
        function()
        seconds = time.process_time() - began
        best, spent, num_calls = min(best, seconds), spent + seconds, num_calls + 1
    return best


def mean(first: Result, second: Result) -> Result:
    """The mean of two results of the same work."""
    return Result(
        name=first.name,
        output_tokens=first.output_tokens,
        cpu_seconds=(first.cpu_seconds + second.cpu_seconds) / 2,
        wall_seconds=(first.wall_seconds + second.wall_seconds) / 2,
    )
