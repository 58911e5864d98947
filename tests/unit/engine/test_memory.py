"""How much memory there is, how many rows it makes, and what the cache takes of it."""

from pathlib import Path

import pytest
import torch

from tests.unit.engine.models import ragged_requests
from worker.engine import Engine
from worker.engine.memory import CACHE_SHARE, _old_container_bytes, choose_rows
from worker.engine.types import Request, SamplingParams

CPU = torch.device("cpu")


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
    monkeypatch.setattr("worker.engine.engine.available_bytes", lambda device: int(50 * 256 * 256 / CACHE_SHARE))
    engine = Engine.load(folder)
    assert engine.info.rows == 48
    assert all(output.error is None for output in engine.generate(ragged_requests(60)))
    assert Engine.load(folder, rows=3).info.rows == 3


@pytest.mark.parametrize(("dtype", "num_bytes"), [("float32", 4), ("bfloat16", 2)])
def test_cache_takes_what_its_formula_says(folder: Path, dtype: str, num_bytes: int) -> None:
    """Rows x width x 2 x layers x heads x head size x bytes of a number."""
    engine = Engine.load(folder, rows=48, dtype=dtype)
    engine.generate([Request(str(i), [5] * 240, params=SamplingParams(max_tokens=16)) for i in range(48)])
    cache = engine._runner.cache
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
