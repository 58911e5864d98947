"""What fails on one rank fails on all; and what an engine recovers from, it does so with any number of ranks."""

from pathlib import Path

import pytest

from tests.unit.engine.models import ragged_requests, tiny_llama
from tests.unit.engine.parallel.threads import Fault, break_attention, break_method, start_thread
from worker.engine import Engine, EngineError, Output, Request, SamplingParams
from worker.engine.attention import NativeAttention
from worker.engine.kv_cache import KVCache
from worker.engine.parallel import launch

REQUESTS = ragged_requests(7, sampled=True, max_tokens=12)


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[Output]:
    return Engine.load(folder, rows=4).generate(REQUESTS)


@pytest.fixture
def engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr(launch, "_start", start_thread)
    return Engine.load(folder, rows=4, tensor_parallel=2)


@pytest.mark.parametrize("on_follower", [True, False])
@pytest.mark.parametrize("calls", [{1}, {6, 11, 14}])  # a pass has two: its layers
def test_memory_short_in_a_pass_of_one_rank(
    engine: Engine, expected: list[Output], on_follower: bool, calls: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault(MemoryError("none left"), on_follower=on_follower, calls=calls)
    monkeypatch.setattr(NativeAttention, "bind", break_attention(fault))

    assert engine.generate(REQUESTS) == expected
    assert fault.num_raised == len(calls)
    assert engine.stats()["oom_splits"] == len(calls)


@pytest.mark.parametrize("on_follower", [True, False])
@pytest.mark.parametrize("name", ["reserve", "open", "_resize"])
def test_memory_short_in_the_cache_of_one_rank(
    engine: Engine, expected: list[Output], on_follower: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault(MemoryError("none left"), on_follower=on_follower, calls={2})
    monkeypatch.setattr(KVCache, name, break_method(KVCache, name, fault))

    assert engine.generate(REQUESTS) == expected
    assert fault.num_raised == engine.stats()["oom_splits"] == 1


@pytest.mark.parametrize(
    ("on_follower", "kind"), [(True, EngineError), (False, ValueError), (False, KeyboardInterrupt)]
)
def test_other_failure_in_a_pass_is_raised_and_the_engine_goes_on(
    engine: Engine,
    expected: list[Output],
    on_follower: bool,
    kind: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = ValueError("a bug") if on_follower else kind("a bug")
    fault = Fault(error, on_follower=on_follower, calls={4})
    with monkeypatch.context() as patch:
        patch.setattr(NativeAttention, "bind", break_attention(fault))
        with pytest.raises(kind, match="rank 1 of the model: a bug" if on_follower else "a bug"):
            engine.generate(REQUESTS)

    assert engine.generate(REQUESTS) == expected


@pytest.mark.parametrize("on_follower", [True, False])
def test_rows_lost_by_one_rank_begin_anew_on_all(
    on_follower: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one rank's cache has lost its rows in growing, the others hold rows that are no longer whole."""
    tiny_llama(tmp_path, max_position_embeddings=1024)
    params = SamplingParams(max_tokens=20, temperature=0.0, ignore_eos=True)
    short, long = (Request(f"r{length}", [7] * length, params=params) for length in (5, 300))
    expected = Engine.load(tmp_path, rows=4).generate([short, long])
    monkeypatch.setattr(launch, "_start", start_thread)
    engine = Engine.load(tmp_path, rows=4, tensor_parallel=2)
    engine.add(engine.prepare(short))
    for _ in range(4):
        engine.step()
    fault = Fault(MemoryError("none left"), on_follower=on_follower, calls={2})  # in the second layer
    monkeypatch.setattr(KVCache, "_resize", break_method(KVCache, "_resize", fault))

    engine.add(engine.prepare(long))
    outputs = [output for _ in range(80) for output in engine.step()]

    assert fault.num_raised == engine.stats()["oom_splits"] == 1
    assert sorted(outputs, key=lambda output: output.request_id, reverse=True) == expected
