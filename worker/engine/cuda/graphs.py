"""Steps captured as CUDA graphs: hundreds of kernels launched by one call. Made when first needed, one a shape.

A step for B rows serves every number of rows up to B, so that few shapes do: the buckets. What a step does beyond the
live rows must change nothing, which also makes a step for no rows at all, run before it is captured so that every
kernel is compiled and every library has its workspace.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from worker.engine.faults import is_allocation_failure
from worker.engine.sampling import Features

log = logging.getLogger(__name__)

Results = TypeVar("Results")
Step = Callable[[int, Features], Results]
Capture = Callable[[Callable[[], Results]], Callable[[], Results]]

_SMALL_BUCKETS = (1, 2, 4, 8, 16)
_BUCKET_STEP = 32


class Graphs:
    """A step by bucket and features; replays what was captured, or runs what cannot be."""

    def __init__(self, step: Step[Results], capture: Capture[Results]) -> None:
        """`step(rows, features)` is run for a bucket; `capture` makes of a call one that can be repeated."""
        self._step, self._capture = step, capture
        self._replays: dict[tuple[int, Features], Callable[[], Results]] = {}

    @property
    def num_captured(self) -> int:
        """Shapes that there are graphs of, or that were given up."""
        return len(self._replays)

    def run(self, num_rows: int, features: Features) -> Results:
        """Run the step for at least so many rows."""
        key = bucket_of(num_rows), features
        if key not in self._replays:
            self._replays[key] = self._make(*key)
        return self._replays[key]()

    def release(self) -> None:
        """Give back the graphs' memory; those needed again are captured again."""
        self._replays.clear()

    def _make(self, bucket: int, features: Features) -> Callable[[], Results]:
        def step() -> Results:
            return self._step(bucket, features)

        try:
            return self._capture(step)
        except RuntimeError as error:
            if is_allocation_failure(error):
                raise
            # A kernel or a library that cannot be captured: slower, and right.
            log.warning("a step of %d rows runs uncaptured: %s", bucket, error, extra={"action": "uncaptured"})
            return step


def bucket_of(num_rows: int) -> int:
    """The least bucket that holds so many rows: 1, 2, 4, 8, 16, then multiples of 32."""
    small = (bucket for bucket in _SMALL_BUCKETS if bucket >= num_rows)
    return next(small, -(-num_rows // _BUCKET_STEP) * _BUCKET_STEP)


class CudaCapture:
    """Captures calls into graphs that share one pool of memory: only one of them runs at a time."""

    def __init__(self, warm_up: Callable[[Callable[[], object]], None]) -> None:
        """`warm_up` runs a call in such a way that it changes nothing."""
        self._warm_up = warm_up
        self._pool: tuple[int, int] | None = None

    def __call__(self, call: Callable[[], Results]) -> Callable[[], Results]:
        """Capture a call that reads and writes tensors that stay where they are."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._warm_up(call)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            results = call()
        self._pool = self._pool or graph.pool()

        def replay() -> Results:
            graph.replay()
            return results

        return replay
