"""Attention over pages against the plain formula, over every shape that there is a model of."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from tests.unit.engine.cuda.paging import Paged, paged
from worker.engine.cuda.decode_attention import SPLIT_TOKENS, Workspace, attend_pages

TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}
LENGTHS = (1, 63, 64, 65, SPLIT_TOKENS, SPLIT_TOKENS + 1, 700)


def plain(q: Tensor, cache: Paged, window: int | None) -> Tensor:
    """softmax(q k / sqrt(D)) v of each row by itself, in float32."""
    num_rows, num_heads, head_dim = q.shape
    rows = []
    for row in range(num_rows):
        k, v = cache.row(cache.k, row).float(), cache.row(cache.v, row).float()
        if window is not None:
            k, v = k[:, -window:], v[:, -window:]
        folded = q[row].float().view(len(k), -1, head_dim)
        rows.append((torch.softmax(folded @ k.transpose(1, 2) / head_dim**0.5, -1) @ v).view(num_heads, head_dim))
    return torch.stack(rows)


def attended(
    q: Tensor,
    cache: Paged,
    *,
    window: int | None = None,
    max_tokens: int | None = None,
    scales: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    longest = max_tokens or int(cache.lengths.max())
    workspace = Workspace.allocate(len(q), q.shape[1], q.shape[2], max_tokens=longest, device=q.device)
    workspace.sums.fill_(torch.nan)  # what no piece wrote must not be read
    return attend_pages(q, cache.k, cache.v, cache.tables, cache.lengths, workspace, window=window, scales=scales)


def queries(num_rows: int, num_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(num_rows, num_heads, head_dim, generator=torch.Generator().manual_seed(1)).to(device, dtype)


def check(
    lengths: Sequence[int],
    device: torch.device,
    *,
    head_dim: int = 64,
    group: int = 4,
    num_kv_heads: int = 2,
    dtype: torch.dtype = torch.float32,
    window: int | None = None,
) -> None:
    cache = paged(lengths, num_kv_heads=num_kv_heads, head_dim=head_dim, dtype=dtype, device=device)
    q = queries(len(lengths), num_kv_heads * group, head_dim, dtype, device)
    torch.testing.assert_close(
        attended(q, cache, window=window).float(), plain(q, cache, window), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("group", [1, 4, 7, 8])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_every_shape(device: torch.device, head_dim: int, group: int, dtype: torch.dtype) -> None:
    check((1, 65, 300), device, head_dim=head_dim, group=group, num_kv_heads=1, dtype=dtype)


@pytest.mark.parametrize("num_kv_heads", [1, 2])
def test_every_kind_of_length(device: torch.device, num_kv_heads: int) -> None:
    check(LENGTHS, device, num_kv_heads=num_kv_heads)


@pytest.mark.parametrize("window", [1, 64, 100, SPLIT_TOKENS, 699, 5000])
def test_only_the_window_is_seen(device: torch.device, window: int) -> None:
    check(LENGTHS, device, window=window)


def test_long_row(device: torch.device) -> None:
    check((8192,), device, num_kv_heads=1, head_dim=128, dtype=torch.bfloat16)


@pytest.mark.parametrize("has_scales", [False, True], ids=["plain", "scales"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
def test_keys_and_values_of_8_bits(device: torch.device, dtype: torch.dtype, has_scales: bool) -> None:
    """Exactly what they stand for is attended to; each head of keys and of values has a scale."""
    wide = paged((1, 65, 300), num_kv_heads=2, head_dim=64, dtype=torch.float32, device=device)
    scales = torch.tensor([0.5, 3.0], device=device), torch.tensor([0.25, 0.7], device=device)
    k, v = wide.k.to(torch.float8_e4m3fn), wide.v.to(torch.float8_e4m3fn)
    per_head = [scale[:, None, None] if has_scales else 1.0 for scale in scales]
    meant = Paged(k.float() * per_head[0], v.float() * per_head[1], wide.tables, wide.lengths)
    q = queries(3, 8, 64, dtype, device)

    result = attended(q, Paged(k, v, wide.tables, wide.lengths), scales=scales if has_scales else None)

    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), plain(q, meant, None), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_8_bits_cost_little_accuracy(device: torch.device) -> None:
    """Of keys and values N(0, 1) measured 4 % of the result; their own rounding is 2.6 % each (root mean square)."""
    exact = paged((300, 700), num_kv_heads=2, head_dim=64, dtype=torch.float32, device=device)
    small = Paged(exact.k.to(torch.float8_e4m3fn), exact.v.to(torch.float8_e4m3fn), exact.tables, exact.lengths)
    q = queries(2, 8, 64, torch.float32, device)
    right = attended(q, exact)
    assert (attended(q, small) - right).norm() / right.norm() < 0.05


def test_a_row_has_the_same_bits_whoever_is_beside_it(device: torch.device) -> None:
    """Nor do they depend on how long a row the workspace is made for."""
    cache = paged((300, 5, 600), num_kv_heads=1, head_dim=64, dtype=torch.float32, device=device)
    q = queries(3, 4, 64, torch.float32, device)

    together = attended(q, cache)

    for row in range(3):
        one = Paged(cache.k, cache.v, cache.tables[row : row + 1], cache.lengths[row : row + 1])
        assert torch.equal(attended(q[row : row + 1], one, max_tokens=2048), together[row : row + 1])
