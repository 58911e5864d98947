"""The kinds of work measured, and the requests of each."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.engine.work import Work

_FEWEST_NEW_TOKENS = 2  # one of the prompt's pass, one of a decode step
_WARM_UP_STEPS = 12


@dataclass(frozen=True)
class Workload:
    """Prompt and output tokens of a request, uniform between two limits, and how many are decoded together."""

    name: str
    prompt_tokens: tuple[int, int]
    output_tokens: tuple[int, int]
    rows: int
    num_requests: int
    shared_tokens: int = 0  # at the beginning of every prompt

    @property
    def longest(self) -> int:
        """Tokens of the longest request there may be."""
        return self.prompt_tokens[1] + self.output_tokens[1]


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("decode-bound", (128, 128), (512, 512), rows=256, num_requests=256),
        Workload("prefill-bound", (2048, 2048), (128, 128), rows=64, num_requests=128),
        Workload("ragged", (16, 1024), (16, 1024), rows=256, num_requests=512),
        Workload("shared-prefix", (1152, 1152), (128, 128), rows=256, num_requests=256, shared_tokens=1024),
        Workload("batch-1", (128, 128), (256, 256), rows=1, num_requests=2),
    )
}


def with_rows(workload: Workload, rows: int) -> Workload:
    """Decode so many together, and as many requests more or fewer; alone stays alone."""
    if workload.rows == 1:
        return workload
    return replace(workload, rows=rows, num_requests=rows * workload.num_requests // workload.rows)


def shrunk(workload: Workload, *, tokens_by: int, rows: int) -> Workload:
    """Make all lengths so many times smaller, for a look on a small machine."""
    low = 4

    def shorter(limits: tuple[int, int]) -> tuple[int, int]:
        return max(limits[0] // tokens_by, low), max(limits[1] // tokens_by, low)

    return replace(
        with_rows(workload, rows),
        prompt_tokens=shorter(workload.prompt_tokens),
        output_tokens=shorter(workload.output_tokens),
        shared_tokens=workload.shared_tokens // tokens_by,
    )


def make_requests(workload: Workload, vocab_size: int, *, seed: int) -> list[Work]:
    """Draw a workload's requests. Their lengths are the workload's own, whatever the seed; it draws the tokens."""
    lengths = random.Random(workload.name)
    tokens = random.Random(seed)
    common = [tokens.randrange(vocab_size) for _ in range(workload.shared_tokens)]
    requests = []
    for _ in range(workload.num_requests):
        num_prompt, num_new = lengths.randint(*workload.prompt_tokens), lengths.randint(*workload.output_tokens)
        tail = [tokens.randrange(vocab_size) for _ in range(num_prompt - len(common))]
        requests.append(Work(common + tail, num_new))
    return requests


def cut(
    requests: Sequence[Work], *, outputs: float = 1.0, prompt: int | None = None, most: int | None = None
) -> list[Work]:
    """Scale the outputs, keep the first tokens of prompts, bound the outputs: the same requests, but shorter."""
    bound = max(item.num_new_tokens for item in requests) if most is None else most
    return [
        Work(item.prompt[:prompt], min(max(round(item.num_new_tokens * outputs), _FEWEST_NEW_TOKENS), bound))
        for item in requests
    ]


def make_warm_up(requests: Sequence[Work], rows: int, *, longest: int) -> list[Work]:
    """Short requests that leave one after the other, down to the last: whatever is compiled or captured for a number
    of rows is then there before the clock runs. None is longer than `longest` tokens, prompt included."""
    few = requests[:rows]
    last = [1, 2, 4, 8, 16]  # live rows of the last steps

    def num_tokens(index: int) -> int:
        late = sum(index < count for count in last)
        return late + _FEWEST_NEW_TOKENS + _WARM_UP_STEPS * (len(few) - index) // len(few)

    return [Work(item.prompt, min(num_tokens(index), longest - len(item.prompt))) for index, item in enumerate(few)]
