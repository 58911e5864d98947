"""New tokens' queries, keys and values, in one pass over them: normalised by head, rotated, and put away."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from worker.engine.cuda.float8 import to_float8


def place(
    qkv: Tensor,
    k: Tensor,
    v: Tensor,
    tables: Tensor,
    rows: Tensor,
    positions: Tensor,
    *,
    rotation: tuple[Tensor, Tensor] | None = None,
    norms: tuple[Tensor, Tensor] | None = None,
    eps: float = 0.0,
    scales: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Write the keys and values of tokens [N] to their pages, and give their queries [N, H, D].

    qkv is [N, H + 2 Hkv, D]; k and v are [pages, Hkv, P, D]; tables [B, M] int32 numbers each row's pages in order, and
    rows [N] int32 and positions [N] int64 say where a token belongs. `rotation` holds cos and sin [context, R / 2] of
    every position (rope.py), `norms` the weights [D] of the queries' and the keys' norm. All are contiguous.

    k and v have the dtype of qkv, or float8_e4m3fn: what lies beyond +-448 is written as that then. `scales`, float32
    [Hkv] of keys and of values, are what they are divided by before; without them by 1, as other engines do that have
    no calibration (vLLM's kv_cache_dtype="fp8").
    """
    num_tokens, num_all, head_dim = qkv.shape
    _, num_kv_heads, page_tokens, _ = k.shape
    num_heads = num_all - 2 * num_kv_heads
    out = qkv.new_empty(num_tokens, num_heads, head_dim)
    _place[(num_tokens, num_all)](
        *(
            qkv,
            out,
            k,
            v,
            tables,
            rows,
            positions,
            *(rotation or (qkv, qkv)),
            *(norms or (qkv, qkv)),
            *(scales or (qkv, qkv)),
        ),
        eps,
        tables.stride(0),
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=num_kv_heads,
        HEAD_DIM=head_dim,
        HEAD_PADDED=triton.next_power_of_2(head_dim),
        HALF=rotation[0].shape[1] if rotation else 0,
        HAS_NORM=norms is not None,
        PAGE=page_tokens,
        HAS_SCALES=scales is not None,
        FLOAT8=k.dtype == torch.float8_e4m3fn,
    )
    return out


@triton.jit
def _place(
    qkv,
    out,
    k,
    v,
    tables,
    rows,
    positions,
    cos,
    sin,
    q_norm,
    k_norm,
    k_scale,
    v_scale,
    eps,
    table_stride,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PADDED: tl.constexpr,
    HALF: tl.constexpr,  # pairs of dimensions that turn
    HAS_NORM: tl.constexpr,
    PAGE: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    FLOAT8: tl.constexpr,
):
    """Take one head of one token, in float32; what torch rounds between two operations is rounded here."""
    token, head = tl.program_id(0), tl.program_id(1)
    dim = tl.arange(0, HEAD_PADDED)
    is_dim = dim < HEAD_DIM
    base = qkv + (token * (NUM_HEADS + 2 * NUM_KV_HEADS) + head) * HEAD_DIM
    stored = tl.load(base + dim, mask=is_dim, other=0.0)
    x = stored.to(tl.float32)
    position = tl.load(positions + token)
    if head < NUM_HEADS + NUM_KV_HEADS:
        is_turned = dim < 2 * HALF
        partner = tl.where(dim < HALF, dim + HALF, dim - HALF)
        other = tl.load(base + partner, mask=is_turned, other=0.0).to(tl.float32)
        if HAS_NORM:
            scale = tl.rsqrt(tl.sum(x * x, 0) / HEAD_DIM + eps)
            weight = q_norm if head < NUM_HEADS else k_norm
            x = x * scale * tl.load(weight + dim, mask=is_dim, other=0.0).to(tl.float32)
            other = other * scale * tl.load(weight + partner, mask=is_turned, other=0.0).to(tl.float32)
            x, other = x.to(stored.dtype).to(tl.float32), other.to(stored.dtype).to(tl.float32)
        if HALF > 0:
            pair = position * HALF + tl.where(dim < HALF, dim, dim - HALF)
            turn_x = tl.load(cos + pair, mask=is_turned, other=1.0).to(tl.float32)
            turn_other = tl.load(sin + pair, mask=is_turned, other=0.0).to(tl.float32)
            x = x * turn_x + other * tl.where(dim < HALF, -turn_other, turn_other)
    result = x.to(stored.dtype)
    if head < NUM_HEADS:
        tl.store(out + (token * NUM_HEADS + head) * HEAD_DIM + dim, result, mask=is_dim)
    else:
        row = tl.load(rows + token)
        page = tl.load(tables + row * table_stride + position // PAGE).to(tl.int64)
        kv_head = (head - NUM_HEADS) % NUM_KV_HEADS
        address = ((page * NUM_KV_HEADS + kv_head) * PAGE + position % PAGE) * HEAD_DIM + dim
        if head < NUM_HEADS + NUM_KV_HEADS:
            _put(k + address, result, is_dim, k_scale + kv_head, HAS_SCALES, FLOAT8)
        else:
            _put(v + address, result, is_dim, v_scale + kv_head, HAS_SCALES, FLOAT8)


@triton.jit
def _put(place, x, is_dim, scale, HAS_SCALES: tl.constexpr, FLOAT8: tl.constexpr):
    """Write a key or a value in the dtype of its cache."""
    if HAS_SCALES:
        x = tl.div_rn(x.to(tl.float32), tl.load(scale))
    if FLOAT8:
        x = to_float8(x.to(tl.float32))
    tl.store(place, x.to(place.dtype.element_ty), mask=is_dim)
