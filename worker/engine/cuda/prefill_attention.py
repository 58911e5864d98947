"""Prefill attention over pages: the new tokens of prompts, each over all that lies before it in its row.

A program takes a tile of one prompt's tokens and the query heads of one key head, and reads the row's keys in tiles
that begin at multiples of TILE from position 0. A tile of keys that a token does not see changes no bit of its sums,
so they are the same however its prompt is cut in passes and packed with others; the second half of a prompt is as its
whole, and a page that another row has computed is as good as one's own.

Torch's flash attention is not used beside it. What torch 2.11 has takes no pages at all, so that prompts of which a
beginning is known would need another way; that of 2.13 wants pages of its own layout. And its sums depend on the cut.
It could save little: in an 8B model these products are 2 % of the work of prompts of 1,000 tokens, 13 % at 8,000.
"""

import math
from collections.abc import Sequence as Items

import torch
import triton
import triton.language as tl
from torch import Tensor

from worker.engine.cuda.float8 import from_float8

_MIN_HEAD = 16  # inner size of the smallest product that tensor cores take
_NO_WINDOW = 1 << 30
_FULL_TILE = 128  # tokens times heads of a tile of queries; half of it where numbers or heads are wide


def query_tiles(
    spans: Items[tuple[int, int, int]], *, num_queries: int, first: int = 0
) -> list[tuple[int, int, int, int]]:
    """Cut spans (slot, start, end) of tokens that lie end to end in tiles (first token, tokens, slot, position)."""
    tiles = []
    for slot, start, end in spans:
        for position in range(start, end, num_queries):
            count = min(num_queries, end - position)
            tiles.append((first, count, slot, position))
            first += count
    return tiles


def queries_of(group: int, head_dim: int, dtype: torch.dtype) -> int:
    """How many tokens a tile of queries has, where `group` query heads share a key head."""
    lines = _FULL_TILE // 2 if head_dim > 128 or dtype == torch.float32 else _FULL_TILE
    return max(lines // (1 << (group - 1).bit_length()), 1)


def attend_prompts(
    q: Tensor, k: Tensor, v: Tensor, tables: Tensor, tiles: Tensor, out: Tensor, *, window: int | None = None
) -> None:
    """Attend with the queries that tiles [T, 4] int32 name, see `query_tiles`; the others' part of `out` stays.

    q and out are [N, H, D]; k and v are [pages, Hkv, P, D], the tokens' own keys and values among them; tables [B, M]
    int32 numbers each row's pages in order. A token sees the last `window` positions up to its own. All are contiguous.

    k and v have the dtype of q, or float8_e4m3fn, see `place`. What tiles there are goes by the dtype of q.
    """
    _, num_heads, head_dim = q.shape
    _, num_kv_heads, page_tokens, _ = k.shape
    group = num_heads // num_kv_heads
    is_wide = q.dtype == torch.float32 or head_dim > 128
    _attend_tile[(len(tiles), num_kv_heads)](
        *(q, out, k, v, tables, tiles),
        math.log2(math.e) / math.sqrt(head_dim),
        window or _NO_WINDOW,
        tables.stride(0),
        NUM_KV_HEADS=num_kv_heads,
        GROUP=group,
        GROUP_PADDED=triton.next_power_of_2(group),
        QUERIES=queries_of(group, head_dim, q.dtype),
        HEAD_DIM=head_dim,
        HEAD_PADDED=max(triton.next_power_of_2(head_dim), _MIN_HEAD),
        PAGE=page_tokens,
        TILE=min(page_tokens, 32 if is_wide else 64),
        FLOAT8=k.dtype == torch.float8_e4m3fn,
        WIDEN=q.device.type == "cpu",
        num_warps=4 if is_wide else 8,
        num_stages=2,
    )


@triton.jit
def _attend_tile(
    q,
    out,
    k,
    v,
    tables,
    tiles,
    scale,  # of scores that are powers of 2
    window,
    table_stride,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr,
    QUERIES: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PADDED: tl.constexpr,
    PAGE: tl.constexpr,
    TILE: tl.constexpr,
    FLOAT8: tl.constexpr,
    WIDEN: tl.constexpr,  # the interpreter knows no products of bfloat16
):
    """Attend with the tokens of one tile, for the query heads of one key head."""
    entry, kv_head = tiles + tl.program_id(0) * 4, tl.program_id(1)
    first_token = tl.load(entry).to(tl.int64)
    count = tl.load(entry + 1)
    slot = tl.load(entry + 2).to(tl.int64)
    start = tl.load(entry + 3)
    line, dim = tl.arange(0, QUERIES * GROUP_PADDED), tl.arange(0, HEAD_PADDED)
    token, member = line // GROUP_PADDED, line % GROUP_PADDED
    position = start + token
    head = (first_token + token) * (NUM_KV_HEADS * GROUP) + kv_head * GROUP + member
    is_dim = dim < HEAD_DIM
    is_query = ((token < count) & (member < GROUP))[:, None] & is_dim[None, :]
    query = tl.load(q + head[:, None] * HEAD_DIM + dim[None, :], mask=is_query, other=0.0)
    if WIDEN:
        query = query.to(tl.float32)
    peak = tl.full([QUERIES * GROUP_PADDED], float("-inf"), tl.float32)
    mass = tl.zeros([QUERIES * GROUP_PADDED], tl.float32)
    total = tl.zeros([QUERIES * GROUP_PADDED, HEAD_PADDED], tl.float32)
    first = tl.maximum(start - window + 1, 0)
    end = start + count
    for tile in range(first // TILE * TILE, end, TILE):
        key = tile + tl.arange(0, TILE)
        page = tl.load(tables + slot * table_stride + tile // PAGE).to(tl.int64)
        place = (page * NUM_KV_HEADS + kv_head) * PAGE + key % PAGE
        address = place[:, None] * HEAD_DIM + dim[None, :]
        is_there = ((key >= first) & (key < end))[:, None] & is_dim[None, :]
        keys = tl.load(k + address, mask=is_there, other=0.0)
        values = tl.load(v + address, mask=is_there, other=0.0)
        if FLOAT8:
            keys, values = from_float8(keys, query.dtype, WIDEN), from_float8(values, query.dtype, WIDEN)
        if WIDEN:
            keys, values = keys.to(tl.float32), values.to(tl.float32)
        distance = position[:, None] - key[None, :]
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale
        scores = tl.where((distance >= 0) & (distance < window), scores, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, 1))
        # Before the first key that a token sees its peak is -inf, and what is subtracted must be a number.
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        weights, shrink = tl.exp2(scores - base[:, None]), tl.exp2(peak - base)
        mass = mass * shrink + tl.sum(weights, 1)
        total = total * shrink[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        peak = new_peak
    result = total / tl.where(mass == 0.0, 1.0, mass)[:, None]
    tl.store(out + head[:, None] * HEAD_DIM + dim[None, :], result.to(out.dtype.element_ty), mask=is_query)
