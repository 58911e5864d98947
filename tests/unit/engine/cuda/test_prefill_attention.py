"""Prefill attention over pages against the plain formula, and however prompts are cut."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from tests.unit.engine.cuda.paging import Paged, paged
from worker.engine.cuda.prefill_attention import attend_prompts, queries_of, query_tiles

TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
Span = tuple[int, int, int]  # slot, start, end


def queries(cache: Paged, num_heads: int, dtype: torch.dtype) -> list[Tensor]:
    """Queries [length, H, D] for every position of each row."""
    generator = torch.Generator().manual_seed(1)
    head_dim = cache.k.shape[-1]
    return [
        torch.randn(length, num_heads, head_dim, generator=generator).to(cache.k.device, dtype)
        for length in cache.lengths.tolist()
    ]


def attended(q: list[Tensor], cache: Paged, spans: Sequence[Span], *, window: int | None = None) -> list[Tensor]:
    packed = torch.cat([q[slot][start:end] for slot, start, end in spans])
    group = packed.shape[1] // cache.k.shape[1]
    tiles = query_tiles(spans, num_queries=queries_of(group, packed.shape[2], packed.dtype))
    out = torch.full_like(packed, torch.nan)  # every token's is to be written
    device_tiles = torch.tensor(tiles, dtype=torch.int32, device=packed.device)
    attend_prompts(packed, cache.k, cache.v, cache.tables, device_tiles, out, window=window)
    return list(torch.split(out, [end - start for _, start, end in spans]))


def plain(q: Tensor, cache: Paged, span: Span, window: int | None) -> Tensor:
    """softmax(q k / sqrt(D)) v over the keys up to each token's own, in float32."""
    slot, start, end = span
    k, v = cache.row(cache.k, slot)[:, :end].float(), cache.row(cache.v, slot)[:, :end].float()
    group = q.shape[1] // len(k)
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)  # [H, T, D]
    distance = torch.arange(start, end, device=k.device)[:, None] - torch.arange(end, device=k.device)
    scores = q.float().transpose(0, 1) @ k.transpose(1, 2) / q.shape[2] ** 0.5
    scores = scores.masked_fill((distance < 0) | (distance >= (window or end)), -torch.inf)
    return torch.matmul(scores.softmax(-1), v).transpose(0, 1)


def check(
    spans: Sequence[Span],
    device: torch.device,
    *,
    head_dim: int = 64,
    group: int = 4,
    num_kv_heads: int = 1,
    dtype: torch.dtype = torch.float32,
    window: int | None = None,
) -> None:
    cache = paged(
        [end for _, _, end in spans], num_kv_heads=num_kv_heads, head_dim=head_dim, dtype=dtype, device=device
    )
    q = queries(cache, num_kv_heads * group, dtype)
    for span, found in zip(spans, attended(q, cache, spans, window=window), strict=True):
        expected = plain(q[span[0]][span[1] : span[2]], cache, span, window)
        torch.testing.assert_close(found.float(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("group", [1, 4, 7])
@pytest.mark.parametrize("head_dim", [16, 64, 80, 128, 256])
def test_every_shape(device: torch.device, head_dim: int, group: int, dtype: torch.dtype) -> None:
    check([(0, 0, 1), (1, 0, 70), (2, 60, 100)], device, head_dim=head_dim, group=group, dtype=dtype)


@pytest.mark.parametrize("num_kv_heads", [1, 2])
def test_every_kind_of_span(device: torch.device, num_kv_heads: int) -> None:
    spans = [(0, 0, 64), (1, 64, 65), (2, 63, 129), (3, 0, 200), (4, 199, 200)]
    check(spans, device, num_kv_heads=num_kv_heads)


@pytest.mark.parametrize("window", [1, 10, 64, 65, 5000])
def test_only_the_window_is_seen(device: torch.device, window: int) -> None:
    check([(0, 0, 150), (1, 128, 150)], device, window=window)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("head_dim", [16, 80])
def test_keys_and_values_of_8_bits(device: torch.device, head_dim: int, dtype: torch.dtype) -> None:
    """Exactly what they stand for is attended to, in whole prompts and in the second parts of others; NaN stays NaN."""
    spans = [(0, 0, 70), (1, 60, 100)]
    wide = paged((70, 100), num_kv_heads=2, head_dim=head_dim, dtype=torch.float32, device=device)
    wide.v[int(wide.tables[1, 0]), 0, 0, 0] = torch.nan
    k, v = wide.k.to(torch.float8_e4m3fn), wide.v.to(torch.float8_e4m3fn)
    meant = Paged(k.float(), v.float(), wide.tables, wide.lengths)
    q = queries(wide, 4, dtype)

    results = attended(q, Paged(k, v, wide.tables, wide.lengths), spans)

    for span, result in zip(spans, results, strict=True):
        expected = plain(q[span[0]][span[1] : span[2]], meant, span, None)
        assert result.dtype == dtype
        assert bool(expected.isnan().any()) == (span[0] == 1)
        torch.testing.assert_close(
            result.float(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype], equal_nan=True
        )


@pytest.mark.parametrize("window", [None, 40])
def test_a_tokens_bits_do_not_depend_on_the_cut(device: torch.device, window: int | None) -> None:
    """Nor on the prompts beside it."""
    cache = paged((200, 90), num_kv_heads=1, head_dim=64, dtype=torch.float32, device=device)
    q = queries(cache, 4, torch.float32)

    [whole] = attended(q, cache, [(0, 0, 200)], window=window)
    first, other, rest = attended(q, cache, [(0, 0, 77), (1, 0, 90), (0, 77, 200)], window=window)
    [last] = attended(q, cache, [(0, 199, 200)], window=window)
    [alone] = attended(q, cache, [(1, 0, 90)], window=window)

    assert torch.equal(torch.cat([first, rest]), whole)
    assert torch.equal(last, whole[-1:])
    assert torch.equal(other, alone)
