"""Steps captured as CUDA graphs: hundreds of kernels launched by one call. Made when first needed, one a shape.

A step that is captured is run before, so that every kernel is compiled and every library has its workspace; it must be
one that changes nothing then.
"""

import logging
import time
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import torch

from worker.engine.faults import is_allocation_failure

log = logging.getLogger(__name__)

Shape = TypeVar("Shape", bound=Hashable)
Results = TypeVar("Results")


class Graphs(Generic[Shape, Results]):
    """A step by its shape: replays what was captured, or runs what cannot be."""

    def __init__(
        self,
        step: Callable[[Shape], Results],
        capture: Callable[[Callable[[], Results]], Callable[[], Results]],
    ) -> None:
        """`capture` makes of a call one that can be repeated."""
        self._step, self._capture = step, capture
        self._replays: dict[Shape, Callable[[], Results]] = {}

    @property
    def num_captured(self) -> int:
        """Shapes that there are graphs of, or that were given up."""
        return len(self._replays)

    def run(self, shape: Shape) -> Results:
        """Run the step of a shape."""
        if shape not in self._replays:
            self._replays[shape] = self._make(shape)
        return self._replays[shape]()

    def release(self) -> None:
        """Give back the graphs' memory; those needed again are captured again."""
        self._replays.clear()

    def _make(self, shape: Shape) -> Callable[[], Results]:
        def step() -> Results:
            return self._step(shape)

        began = time.perf_counter()
        try:
            captured = self._capture(step)
        except RuntimeError as error:
            if is_allocation_failure(error):
                raise
            # A kernel or a library that cannot be captured: slower, and right.
            log.warning("%s runs uncaptured: %s", shape, error, extra={"action": "uncaptured"})
            return step
        log.info("captured %s in %.1f s", shape, time.perf_counter() - began, extra={"action": "captured"})
        return captured


class CudaCapture:
    """Captures calls into graphs that share one pool of memory: only one of them runs at a time."""

    def __init__(self, warm_up: Callable[[Callable[[], object]], object]) -> None:
        """`warm_up` runs a call in such a way that it changes nothing."""
        self._warm_up = warm_up
        self._pool: Any = None  # of graphs, by torch's own handle

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
