"""Row state and cache: a move takes everything along, growing loses nothing."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from worker.engine.attention import attend_each_row, attend_masked_rows, length_mask
from worker.engine.kv_cache import KVCache, token_bytes
from worker.engine.linear import linear, pack, packing_works
from worker.engine.memory import available_bytes
from worker.engine.rows import Rows
from worker.engine.sequence import Sequence
from worker.engine.spec import Spec
from worker.engine.types import SamplingParams

SPEC = Spec(
    vocab_size=10,
    hidden_size=8,
    intermediate_size=8,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    context_length=64,
)
CPU = torch.device("cpu")


def make_cache(budget_tokens: int = 100_000, max_rows: int = 4, key_block: int | None = None) -> KVCache:
    return KVCache(
        SPEC, max_rows=max_rows, budget_tokens=budget_tokens, dtype=torch.float32, device=CPU, key_block=key_block
    )


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def tensors_of(rows: Rows) -> list[Tensor]:
    held = [getattr(rows, field.name) for field in fields(rows)]
    held += [getattr(rows.penalties, field.name) for field in fields(rows.penalties)]
    held += [getattr(rows.bans, field.name) for field in fields(rows.bans)]
    return [tensor for tensor in held if isinstance(tensor, Tensor)]


def test_move_takes_every_field_along() -> None:
    rows = Rows.allocate(4, max_stop_ids=3, device=CPU)
    params = SamplingParams(temperature=0.5, top_k=3, top_p=0.4, min_p=0.1, seed=2**63 - 1, presence_penalty=1.0)
    params = replace(params, allowed_token_ids=(5, 6))
    second = Sequence("b", [1], params, 7, (4, 5), bad_words=((3,), (1, 2)))
    rows.start(0, [Sequence("a", [1, 2], SamplingParams(), 5, ()), second], vocab_size=10)
    rows.record(slice(0, 2), torch.tensor([6, 5]), torch.tensor([-1.0, -2.0]))
    expected = [tensor[1].clone() for tensor in tensors_of(rows)]
    rows.move(0, 1)
    assert all(tensor[0].equal(value) for tensor, value in zip(tensors_of(rows), expected, strict=True))
    assert rows.done.tolist() == [True, True, False, False]
    assert rows.token.tolist() == [5, 5, 0, 0]


def test_cache_grows_without_losing_live_rows() -> None:
    cache = make_cache()
    cache.reserve(0, 2, 10)
    k, v = random(2, 2, 4), random(2, 2, 4) + 1
    cache.write(1, cache.addresses(torch.tensor([0, 1]), torch.tensor([3, 9])), k, v)
    cache.reserve(2, 3, 1000)
    assert (cache.num_slots, cache.width) == (4, 1024)
    assert cache.k[1][[0, 1], :, [3, 9]].equal(k)
    assert cache.v[1][[0, 1], :, [3, 9]].equal(v)
    assert cache.num_bytes == 4 * 1024 * token_bytes(SPEC, torch.float32)


def test_cache_trades_slots_for_width_within_its_budget() -> None:
    cache = make_cache(budget_tokens=2048, max_rows=8)
    cache.reserve(0, 8, 200)
    assert (cache.num_slots, cache.width) == (8, 256)
    assert not cache.fits(8, 300)
    cache.reserve(0, 2, 1000)
    assert (cache.num_slots, cache.width) == (2, 1024)
    cache.reserve(0, 8, 200)
    assert (cache.num_slots, cache.width) == (8, 256)
    assert cache.fits(1, 10**9)


@pytest.mark.parametrize("key_block", [None, 16])
def test_cache_copies_reads_and_clears_slots(key_block: int | None) -> None:
    cache = make_cache(key_block=key_block)
    cache.reserve(0, 3, 40)
    for layer in range(2):
        cache.k[layer].copy_(random(*cache.k[layer].shape))
        cache.v[layer].copy_(random(*cache.v[layer].shape) + layer)
    assert cache.num_bytes == 4 * 256 * token_bytes(SPEC, torch.float32)
    expected = cached(cache, 1, 37)
    cache.copy(0, 1, 37)
    assert cached(cache, 0, 37).equal(expected)
    cache.fill(2, *cache.read(1, 37), 37)
    cache.clear(1)
    assert cached(cache, 2, 37).equal(expected)
    assert cached(cache, 1, 256).eq(0).all()


def cached(cache: KVCache, slot: int, num_tokens: int) -> Tensor:
    keys, values = cache.read(slot, num_tokens)
    return torch.cat([tensor.flatten() for tensor in (*keys, *values)])


def test_masked_attention_equals_row_by_row() -> None:
    lengths = [1, 5, 9]
    q, k, v = random(3, 4, 8), random(3, 2, 9, 8), random(2, 3, 9, 8).transpose(0, 1)
    mask = length_mask(torch.tensor(lengths) - 1, 9, torch.float32)
    each = attend_each_row(q, k, v, lengths)
    torch.testing.assert_close(attend_masked_rows(q, k, v, mask), each)
    assert each.shape == (3, 32)


def test_packed_linear_is_the_same_product() -> None:
    assert packing_works(torch.float32)
    x, weight = random(16, 24), random(40, 24)
    torch.testing.assert_close(linear(x, pack(weight)), x @ weight.T)


def test_available_memory_is_known_and_bounded(tmp_path: Path) -> None:
    from worker.engine import memory

    assert available_bytes(CPU) > 0
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert memory._container_bytes(tmp_path) == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._container_bytes(tmp_path) is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    5 kB\n")
    assert memory._machine_bytes(tmp_path / "meminfo") == 5 * 1024
    assert memory._machine_bytes(tmp_path / "none") is None
