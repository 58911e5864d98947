"""Which steps are captured, and when. What a graph computes is the GPU's: its test is marked so."""

from collections.abc import Callable

import pytest
import torch

from worker.engine.cuda.graphs import CudaCapture, Graphs, bucket_of
from worker.engine.sampling import Features

PLAIN, SAMPLED = Features(), Features(sampled=True)


def make(captured: list[Callable[[], object]]) -> Graphs:
    def capture(call: Callable[[], object]) -> Callable[[], object]:
        captured.append(call)
        return call

    return Graphs(lambda bucket, features: (bucket, features), capture)


@pytest.mark.parametrize(
    ("num_rows", "bucket"), [(1, 1), (2, 2), (3, 4), (9, 16), (16, 16), (17, 32), (33, 64), (256, 256), (257, 288)]
)
def test_rows_go_into_the_least_bucket(num_rows: int, bucket: int) -> None:
    assert bucket_of(num_rows) == bucket


def test_a_shape_is_captured_once() -> None:
    captured: list[Callable[[], object]] = []
    graphs = make(captured)
    results = [graphs.run(*asked) for asked in [(3, PLAIN), (4, PLAIN), (5, PLAIN), (4, SAMPLED), (3, PLAIN)]]
    assert results == [(4, PLAIN), (4, PLAIN), (8, PLAIN), (4, SAMPLED), (4, PLAIN)]
    assert len(captured) == graphs.num_captured == 3


def test_released_graphs_are_captured_again() -> None:
    captured: list[Callable[[], object]] = []
    graphs = make(captured)
    for _ in range(2):
        graphs.run(1, PLAIN)
        graphs.release()
    assert len(captured) == 2


def test_what_cannot_be_captured_runs_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    tries: list[object] = []

    def refuse(call: Callable[[], object]) -> Callable[[], object]:
        tries.append(call)
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = Graphs(lambda bucket, features: bucket, refuse)
    assert [graphs.run(2, PLAIN), graphs.run(2, PLAIN)] == [2, 2]
    assert len(tries) == len(caplog.records) == 1


def test_too_little_memory_for_a_graph_is_told() -> None:
    def refuse(call: Callable[[], object]) -> Callable[[], object]:
        raise torch.OutOfMemoryError("no room for the graph")

    graphs = Graphs(lambda bucket, features: bucket, refuse)
    with pytest.raises(torch.OutOfMemoryError):
        graphs.run(2, PLAIN)
    assert graphs.num_captured == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_captured_call_computes_what_it_did() -> None:
    x = torch.zeros(4, device="cuda")
    capture = CudaCapture(lambda call: call() and None)
    replays = [capture(lambda factor=factor: (x + 1) * factor) for factor in (2, 3)]
    for value in (1.0, 5.0):
        x.fill_(value)
        assert [replay().tolist() for replay in replays] == [[(value + 1) * factor] * 4 for factor in (2, 3)]
