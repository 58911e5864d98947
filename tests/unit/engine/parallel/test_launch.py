"""Loading on all ranks at once, and its failures told as in one process."""

from pathlib import Path

import pytest

from tests.unit.engine.models import ragged_requests
from tests.unit.engine.parallel.threads import is_follower, start_thread
from worker.engine import Engine, EngineError
from worker.engine.parallel import follower, launch
from worker.engine.recovery import PATIENCE_STEPS


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_start", start_thread)


def test_checkpoint_nobody_can_load_is_refused_in_its_own_words(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())

    with pytest.raises(EngineError, match="no weights"):
        Engine.load(tmp_path, tensor_parallel=2)


def test_rank_that_cannot_load_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise EngineError("device cuda:1 is not there")

    monkeypatch.setattr(follower, "load_model", refuse)

    with pytest.raises(EngineError, match="rank 1 of the model: device cuda:1 is not there"):
        Engine.load(folder, tensor_parallel=2)


def test_one_rank_is_one_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_start", lambda rank: pytest.fail("started another"))

    engine = Engine.load(folder, rows=2, tensor_parallel=1)

    assert "ranks" not in engine.info.fast_paths


def test_second_try_in_float32_is_split_too(folder: Path) -> None:
    """Requests whose scores leave bfloat16's range go on in a second model, whose ranks are a group of their own."""
    engine = Engine.load(folder, rows=2, dtype="bfloat16", tensor_parallel=2)
    other = engine._retry._load()  # type: ignore[misc]

    assert other.info.fast_paths["ranks"] == "2 over gloo"
    assert isinstance(other, Engine)
    requests = ragged_requests(3)
    assert other.generate(requests) == Engine.load(folder, rows=2).generate(requests)
    assert engine.generate(requests) == Engine.load(folder, rows=2, dtype="bfloat16").generate(requests)


def test_limit_of_the_cache_is_everyones(folder: Path) -> None:
    """Else a rank with less would run short of what rank 0 has given out again."""
    limits: list[int] = []

    class Limited(follower.Follower):
        def _limit(self, num_tokens: int) -> None:
            assert is_follower()
            super()._limit(num_tokens)
            limits.append(self._runner.cache.budget_tokens)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follower, "Follower", Limited)
        engine = Engine.load(folder, rows=2, tensor_parallel=2)
        full = engine._runner.cache.budget_tokens
        engine._scheduler.limit, engine._runner.cache.budget_tokens = 1, full // 4
        for _ in range(PATIENCE_STEPS):
            engine._recovery.note_clean_step()

    assert engine._runner.cache.budget_tokens == full // 2
    assert limits == [full // 4, full // 4 * 2]


def test_every_rank_has_as_many_threads_as_the_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers: list[int] = []
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    monkeypatch.setattr("torch.set_num_threads", lambda number: numbers.append(number) if is_follower() else None)

    Engine.load(folder, rows=2, tensor_parallel=2)

    assert numbers == [3]


def test_ranks_on_cpus_share_one_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engine.engine.cache_bytes", lambda *_, **__: 1 << 20)

    engines = [Engine.load(folder, rows=2, tensor_parallel=num_ranks) for num_ranks in (1, 2)]

    assert len({engine._runner.cache.budget_tokens for engine in engines}) == 1
