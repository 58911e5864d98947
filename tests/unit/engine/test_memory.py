"""How much memory there is, how many rows it makes, and what the cache takes of it."""

from pathlib import Path

import pytest
import torch

from tests.unit.engine.models import ragged_requests, slots_of
from worker.engine import Engine
from worker.engine.memory import CACHE_SHARE, _old_container_bytes, available_bytes, cache_bytes, choose_rows
from worker.engine.types import EngineError, Request, SamplingParams

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GIB = 1 << 30


@pytest.mark.parametrize(
    ("budget_tokens", "max_model_len", "device", "rows"),
    [
        (1000, 4096, "cpu", 16),
        (40 * 1024, 4096, "cpu", 32),
        (40 * 1024, 256, "cpu", 128),
        (10**9, 4096, "cpu", 128),
        (10**9, 4096, "cuda", 256),
        (200 * 1024, 1 << 17, "cuda", 192),
    ],
)
def test_rows_fit_the_memory_there_is(budget_tokens: int, max_model_len: int, device: str, rows: int) -> None:
    assert choose_rows(budget_tokens, max_model_len=max_model_len, device=torch.device(device)) == rows


def test_an_engine_chooses_its_rows_and_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token takes 256 bytes here: keys and values, 2 layers, 2 heads of 8 numbers of 4 bytes."""
    monkeypatch.setattr("worker.engine.memory.available_bytes", lambda device: int(50 * 256 * 256 / CACHE_SHARE))
    engine = Engine.load(folder)
    assert engine.info.rows == 48
    assert all(output.error is None for output in engine.generate(ragged_requests(60)))
    assert Engine.load(folder, rows=3).info.rows == 3


@pytest.mark.parametrize(("dtype", "num_bytes"), [("float32", 4), ("bfloat16", 2)])
def test_cache_takes_what_its_formula_says(folder: Path, dtype: str, num_bytes: int) -> None:
    """Rows x width x 2 x layers x heads x head size x bytes of a number."""
    engine = Engine.load(folder, rows=48, dtype=dtype)
    engine.generate([Request(str(i), [5] * 240, params=SamplingParams(max_tokens=16)) for i in range(48)])
    cache = slots_of(engine)
    held = sum(tensor.untyped_storage().nbytes() for tensor in (*cache.k, *cache.v))
    assert held == pytest.approx(48 * 256 * 2 * 2 * 2 * 8 * num_bytes, rel=0.02)
    assert engine.stats()["cache_bytes"] == held


def test_old_control_groups_limit_memory(tmp_path: Path) -> None:
    assert _old_container_bytes(tmp_path) is None
    (tmp_path / "memory.limit_in_bytes").write_text("1000\n")
    (tmp_path / "memory.usage_in_bytes").write_text("700\n")
    assert _old_container_bytes(tmp_path) == 300
    (tmp_path / "memory.stat").write_text("cache 500\ninactive_file 1\ntotal_inactive_file 450\n")
    assert _old_container_bytes(tmp_path) == 750


def use_of_gpu(monkeypatch: pytest.MonkeyPatch, *, free: int, total: int) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, total))


@pytest.mark.parametrize(("fraction", "left"), [(1.0, 60 * GIB), (0.5, 10 * GIB), (0.45, 5 * GIB)])
def test_fraction_of_a_gpu_holds_weights_and_cache_together(
    monkeypatch: pytest.MonkeyPatch, fraction: float, left: int
) -> None:
    """40 of 100 GiB are in use, by the weights or by anybody."""
    use_of_gpu(monkeypatch, free=60 * GIB, total=100 * GIB)
    assert cache_bytes(CUDA, gpu_memory_fraction=fraction) == left


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_fraction_goes_by_what_the_driver_says(folder: Path) -> None:
    _, total = torch.cuda.mem_get_info(CUDA)
    held = torch.empty(GIB, dtype=torch.uint8, device=CUDA)
    before = cache_bytes(CUDA, gpu_memory_fraction=0.9)
    more = torch.empty(2 * GIB, dtype=torch.uint8, device=CUDA)
    after = cache_bytes(CUDA, gpu_memory_fraction=0.9)
    assert before - after == pytest.approx(more.nbytes, rel=0.05)
    assert 0 < after <= 0.9 * total - held.nbytes - more.nbytes
    assert Engine.load(folder, device="cuda").info.rows == 256


def test_fraction_that_the_weights_fill_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    use_of_gpu(monkeypatch, free=60 * GIB, total=100 * GIB)
    with pytest.raises(EngineError, match=r"40\.0 of the GPU's 100\.0 GiB are in use, .*fraction of 0\.4 "):
        cache_bytes(CUDA, gpu_memory_fraction=0.4)


def test_second_engine_on_a_gpu_takes_a_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one has its fraction by then: nothing would be left of it."""
    use_of_gpu(monkeypatch, free=8 * GIB, total=100 * GIB)
    assert cache_bytes(CUDA, gpu_memory_fraction=None) == 4 * GIB


def test_fraction_changes_nothing_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engine.memory._machine_bytes", lambda: 10 * GIB)
    for name in ("_container_bytes", "_old_container_bytes"):
        monkeypatch.setattr(f"worker.engine.memory.{name}", lambda: None)
    assert available_bytes(CPU) == 10 * GIB
    assert {cache_bytes(CPU, gpu_memory_fraction=fraction) for fraction in (0.01, 1.0, None)} == {5 * GIB}


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5, float("nan")])
def test_engine_refuses_a_fraction_that_is_none(folder: Path, fraction: float) -> None:
    with pytest.raises(EngineError, match="gpu_memory_fraction"):
        Engine.load(folder, gpu_memory_fraction=fraction)


def test_engine_loads_with_the_fraction_it_is_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the second one, in float32, with none."""
    asked: list[float | None] = []

    def note(device: torch.device, *, gpu_memory_fraction: float | None) -> int:
        asked.append(gpu_memory_fraction)
        return GIB

    monkeypatch.setattr("worker.engine.engine.cache_bytes", note)
    engine = Engine.load(folder, dtype="bfloat16", gpu_memory_fraction=0.7)
    load_float32 = engine._retry._load
    assert load_float32 is not None
    load_float32()
    Engine.load(folder)
    assert asked == [0.7, None, 0.9]
