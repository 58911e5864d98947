"""Which steps are captured, and when. What a graph computes is the GPU's: its test is marked so."""

from collections.abc import Callable
from functools import partial

import pytest
import torch

from worker.engine.cuda.graphs import CudaCapture, Graphs


def make(captured: list[Callable[[], object]]) -> Graphs[str, object]:
    def capture(call: Callable[[], object]) -> Callable[[], object]:
        captured.append(call)
        return call

    return Graphs(str.upper, capture)


def test_a_shape_is_captured_once() -> None:
    captured: list[Callable[[], object]] = []
    graphs = make(captured)
    assert [graphs.run(shape) for shape in ("a", "b", "a", "c", "b")] == ["A", "B", "A", "C", "B"]
    assert len(captured) == graphs.num_captured == 3


def test_released_graphs_are_captured_again() -> None:
    captured: list[Callable[[], object]] = []
    graphs = make(captured)
    for _ in range(2):
        graphs.run("a")
        graphs.release()
    assert len(captured) == 2


def test_what_cannot_be_captured_runs_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    tries: list[object] = []

    def refuse(call: Callable[[], str]) -> Callable[[], str]:
        tries.append(call)
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = Graphs(str.upper, refuse)
    assert [graphs.run("a"), graphs.run("a")] == ["A", "A"]
    assert len(tries) == len(caplog.records) == 1


def test_too_little_memory_for_a_graph_is_told() -> None:
    def refuse(call: Callable[[], str]) -> Callable[[], str]:
        raise torch.OutOfMemoryError("no room for the graph")

    graphs = Graphs(str.upper, refuse)
    with pytest.raises(torch.OutOfMemoryError):
        graphs.run("a")
    assert graphs.num_captured == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_captured_call_computes_what_it_did() -> None:
    x = torch.zeros(4, device="cuda")
    capture = CudaCapture(lambda call: call())
    replays = [capture(partial(lambda factor: (x + 1) * factor, factor)) for factor in (2, 3)]
    for value in (1.0, 5.0):
        x.fill_(value)
        assert [replay().tolist() for replay in replays] == [[(value + 1) * factor] * 4 for factor in (2, 3)]
