"""What no engine with one kernel after the other can beat on a device: the serial limit.

A kernel takes the longer of the time to read its bytes once and the time for its arithmetic:

    seconds = max(bytes / bandwidth, flops / peak)

and a decode step is the sum over its kernels: the four matrix products of each layer, the head, and attention over
each row's own keys. Counted are weights, keys and values; not activations, norms, sampling, launches or the host. The
bandwidth and the peak are those measured in the same run: an H200's 4.3 TB/s and 790 TFLOP/s give Llama-3-8B in
bfloat16 at 512-token contexts 285 tok/s alone, 8.0k with 32 rows, 23.3k with 128, 28.9k with 256 and more.
"""

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.engine.gemm import layer_shapes
from benchmarks.engine.work import Work
from worker.engine.spec import Spec

# Tokens of one prefill pass: the weights are read once in each. Beyond a few hundred, arithmetic is the longer part.
PASS_TOKENS = 8192


@dataclass(frozen=True)
class Peaks:
    """What the device did at best."""

    bytes_per_second: float  # of a copy, read and written bytes together
    flops_per_second: float  # of a matrix product in the dtype measured


@dataclass(frozen=True)
class Cost:
    """What must be read and computed, and the seconds of the serial limit for it."""

    num_bytes: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        """One after the other."""
        return Cost(self.num_bytes + other.num_bytes, self.flops + other.flops, self.seconds + other.seconds)

    def __mul__(self, times: float) -> "Cost":
        """So many times over."""
        return Cost(self.num_bytes * times, self.flops * times, self.seconds * times)


@dataclass(frozen=True)
class Limit:
    """The serial limit of a shape in a dtype of `itemsize` bytes on a device."""

    spec: Spec
    itemsize: int
    peaks: Peaks

    def decode_step(self, rows: int, context: float) -> Cost:
        """One token more for each of so many rows, of `context` keys each on average."""
        return self._matrices(rows) + self._head(rows) + self._attention(rows * context)

    def decode(self, requests: Sequence[Work], rows: int) -> Cost:
        """All decode steps of some requests, with at most so many live: every token but each one's first."""
        steps = Cost()
        for live, num_steps in occupancy([item.num_new_tokens - 1 for item in requests], rows).items():
            steps += (self._matrices(live) + self._head(live)) * num_steps
        return steps + self._attention(sum(map(_keys_read, requests)))

    def prefill(self, requests: Sequence[Work], rows: int, *, shared_tokens: int = 0) -> Cost:
        """All prompts, the tokens they share computed once, and the head for each one's last token."""
        num_passes = -(-len(requests) // rows)
        suffixes = [len(item.prompt) - shared_tokens for item in requests]
        num_tokens = sum(suffixes) + shared_tokens
        num_keys = sum(_triangle(shared_tokens, len(item.prompt)) for item in requests) + _triangle(0, shared_tokens)
        passes = max(num_passes, num_tokens / PASS_TOKENS)
        matrices = self._kernel(
            self._layer_parameters * self.itemsize * passes, 2 * self._layer_parameters * num_tokens
        )
        head = self._head(len(requests) / num_passes) * num_passes
        # Prompts read each key once a tile, not once a query: only the arithmetic counts.
        return matrices + head + self._kernel(0, self._flops_per_key * num_keys)

    def _matrices(self, tokens: float) -> Cost:
        shapes = layer_shapes(self.spec)
        one_layer = [self._product(out * inner, tokens) for out, inner in shapes]
        return sum(one_layer, Cost()) * self.spec.num_layers

    def _head(self, rows: float) -> Cost:
        return self._product(self.spec.vocab_size * self.spec.hidden_size, rows)

    def _attention(self, num_keys: float) -> Cost:
        """Queries against so many keys in all, each read for one query group, in every layer."""
        key_bytes = 2 * self.spec.num_layers * self.spec.kv_size * self.itemsize
        return self._kernel(key_bytes * num_keys, self._flops_per_key * num_keys)

    def _product(self, num_weights: int, tokens: float) -> Cost:
        return self._kernel(num_weights * self.itemsize, 2 * num_weights * tokens)

    def _kernel(self, num_bytes: float, flops: float) -> Cost:
        seconds = max(num_bytes / self.peaks.bytes_per_second, flops / self.peaks.flops_per_second)
        return Cost(num_bytes, flops, seconds)

    @property
    def _layer_parameters(self) -> int:
        return self.spec.num_layers * sum(out * inner for out, inner in layer_shapes(self.spec))

    @property
    def _flops_per_key(self) -> int:
        """Of one query against one key and its value, all heads and layers: 2 D for the score, 2 D for the sum."""
        return 4 * self.spec.num_layers * self.spec.q_size


def occupancy(num_steps: Sequence[int], rows: int) -> Counter[int]:
    """Live rows -> for how many steps, if rows are refilled as they end, longest requests first."""
    free: list[int] = []  # the step at which each row used so far ends
    changes: Counter[int] = Counter()
    for length in sorted(num_steps, reverse=True):
        start = heapq.heappop(free) if len(free) == rows else 0
        heapq.heappush(free, start + length)
        changes[start] += 1
        changes[start + length] -= 1
    found: Counter[int] = Counter()
    live, previous = 0, 0
    for step in sorted(changes):
        if live:
            found[live] += step - previous
        live, previous = live + changes[step], step
    return found


def _keys_read(item: Work) -> int:
    """Keys read by a request's decode steps: the first reads the prompt and its own token, each later one one more."""
    return _triangle(len(item.prompt), len(item.prompt) + item.num_new_tokens - 1)


def _triangle(first: int, last: int) -> int:
    """Keys seen by the queries at positions first .. last - 1: p + 1 each."""
    return (last * (last + 1) - first * (first + 1)) // 2
