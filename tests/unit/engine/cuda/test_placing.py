"""Norm, rotation and the writing of keys and values against the operations of the CPU engine."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from worker.engine.cuda.placing import place
from worker.engine.rope import rotate

PAGE = 16
POSITIONS = (0, 15, 16, 33, 7)
ROWS = (0, 1, 1, 0, 1)
TABLES = ((3, 1, 4), (5, 6, 2))
EPS = 1e-5
TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def random(*shape: int, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("has_norm", [False, True], ids=["plain", "norm"])
@pytest.mark.parametrize(
    ("head_dim", "num_heads", "num_kv_heads", "rotary_size"),
    [(64, 4, 2, 64), (80, 2, 2, 32), (96, 7, 1, 96), (128, 8, 1, 0), (256, 2, 1, 128)],
)
def test_as_the_cpu_does(
    device: torch.device,
    head_dim: int,
    num_heads: int,
    num_kv_heads: int,
    rotary_size: int,
    has_norm: bool,
    dtype: torch.dtype,
) -> None:
    qkv = random(len(POSITIONS), num_heads + 2 * num_kv_heads, head_dim, seed=0, dtype=dtype, device=device)
    angles = torch.arange(40.0)[:, None] * torch.rand(rotary_size // 2, generator=torch.Generator().manual_seed(1))
    cos, sin = angles.cos().to(device, dtype), angles.sin().to(device, dtype)
    norms = (random(head_dim, seed=2, dtype=dtype, device=device), random(head_dim, seed=3, dtype=dtype, device=device))
    positions, rows = torch.tensor(POSITIONS, device=device), torch.tensor(ROWS, device=device)
    tables = torch.tensor(TABLES, dtype=torch.int32, device=device)
    k = torch.full((8, num_kv_heads, PAGE, head_dim), 9.0, dtype=dtype, device=device)
    v = k.clone()

    queries = place(
        *(qkv, k, v, tables, rows.int(), positions),
        rotation=(cos, sin) if rotary_size else None,
        norms=norms if has_norm else None,
        eps=EPS,
    )

    q, keys = qkv[:, :num_heads], qkv[:, num_heads:-num_kv_heads]
    if has_norm:
        q, keys = (F.rms_norm(x, (head_dim,), weight, EPS) for x, weight in zip((q, keys), norms, strict=True))
    if rotary_size:
        half_cos, half_sin = cos[positions], sin[positions]
        rotation = torch.cat([half_cos, half_cos], -1)[:, None], torch.cat([-half_sin, half_sin], -1)[:, None]
        q, keys = rotate(q, rotation), rotate(keys, rotation)
    pages, places = tables[rows, positions // PAGE].long(), positions % PAGE
    assert_close = partial(torch.testing.assert_close, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert_close(queries, q)
    assert_close(k[pages, :, places], keys)
    assert torch.equal(v[pages, :, places], qkv[:, -num_kv_heads:])
    untouched = torch.ones_like(k, dtype=torch.bool)
    untouched[pages, :, places] = False
    assert torch.all(k[untouched] == 9)
    assert torch.all(v[untouched] == 9)


@pytest.mark.parametrize("has_scales", [False, True], ids=["plain", "scales"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
def test_keys_and_values_of_8_bits(device: torch.device, dtype: torch.dtype, has_scales: bool) -> None:
    """Rounded as torch does it once they are divided, and no further away than 448."""
    qkv = random(len(POSITIONS), 6, 64, seed=0, dtype=dtype, device=device) * 200
    positions, rows = torch.tensor(POSITIONS, device=device), torch.tensor(ROWS, device=device)
    tables = torch.tensor(TABLES, dtype=torch.int32, device=device)
    k, v = (torch.zeros(8, 2, PAGE, 64, device=device).to(torch.float8_e4m3fn) for _ in range(2))
    scales = torch.tensor([0.3, 0.2], device=device), torch.tensor([3.0, 0.1], device=device)

    queries = place(qkv, k, v, tables, rows.int(), positions, scales=scales if has_scales else None)

    assert torch.equal(queries, qkv[:, :2])
    pages, places = tables[rows, positions // PAGE].long(), positions % PAGE
    for cache, exact, scale in zip((k, v), (qkv[:, 2:4], qkv[:, 4:]), scales, strict=True):
        divided = exact.float() / scale[:, None] if has_scales else exact.float()
        assert torch.any(divided.abs() > 448)
        assert torch.equal(cache.float()[pages, :, places], divided.clamp(-448, 448).to(torch.float8_e4m3fn).float())
