"""This project's engine, watched step by step."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.engine.work import Work
from worker.engine import Engine, Output, Request, SamplingParams


@dataclass(frozen=True)
class Moment:
    """The CPU clock and the engine's counters after a step."""

    cpu_seconds: float
    stats: dict[str, int | float]


@dataclass(frozen=True)
class Span:
    """What an engine did in some time: tokens through its layers, rows through its head."""

    cpu_seconds: float
    layer_tokens: int
    head_rows: int


@dataclass
class Ours:
    """Decodes with an engine and keeps the moments and outputs of its latest run."""

    engine: Engine
    moments: list[Moment] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)

    def __call__(self, work: Sequence[Work]) -> list[list[int]]:
        """Decode the work, all of it known at the start. Raises what a row failed for."""
        requests = [Request(str(index), item.prompt, params=greedy(item)) for index, item in enumerate(work)]
        self.moments = []
        self._look(0)
        self.outputs = self.engine.generate(requests, progress=self._look)
        for output in self.outputs:
            if output.error is not None:
                raise output.error
        return [output.token_ids for output in self.outputs]

    def _look(self, _num_finished: int) -> None:
        self.moments.append(Moment(time.process_time(), self.engine.stats()))

    def counted(self, name: str) -> float | None:
        """By how much a counter grew in the run; None where the engine has no such counter."""
        first, last = self.moments[0].stats, self.moments[-1].stats
        return last[name] - first[name] if name in last else None

    def full_queue(self) -> Span | None:
        """From the step after which every row was live to the last one with jobs still waiting, or None."""
        first = next((moment for moment in self.moments if moment.stats["live"] == self.engine.info.rows), None)
        last = next((moment for moment in reversed(self.moments) if moment.stats["waiting"]), None)
        if first is None or last is None or last.cpu_seconds <= first.cpu_seconds:
            return None
        grown = {name: int(value - first.stats[name]) for name, value in last.stats.items()}
        return Span(
            cpu_seconds=last.cpu_seconds - first.cpu_seconds,
            layer_tokens=grown["prompt_tokens"] - grown.get("shared_tokens", 0) + grown["row_steps"],
            head_rows=grown["row_steps"] - grown["waiting"],  # each that waits no more had its prompt's end sampled
        )

    def live_counts(self) -> list[int]:
        """Live rows after each step that left some."""
        return [int(moment.stats["live"]) for moment in self.moments if moment.stats["live"]]

    def peak_cache_bytes(self) -> int:
        """Most memory that the KV cache held."""
        return max(int(moment.stats["cache_bytes"]) for moment in self.moments)


def whole_run(work: Sequence[Work], cpu_seconds: float) -> Span:
    """What a run must compute: prompts once, then all new tokens but the first, which the prompt's end gives."""
    new_tokens = sum(item.num_new_tokens for item in work)
    return Span(
        cpu_seconds=cpu_seconds,
        layer_tokens=sum(len(item.prompt) for item in work) + new_tokens - len(work),
        head_rows=new_tokens,
    )


def greedy(item: Work) -> SamplingParams:
    """The likeliest token each time, to the length asked for."""
    return SamplingParams(max_tokens=item.num_new_tokens, temperature=0.0, ignore_eos=True)
