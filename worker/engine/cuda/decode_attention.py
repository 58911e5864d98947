"""Decode attention over pages: one query a row, its keys read once, the work of a long row shared out.

The keys of a row are cut in pieces of SPLIT_TOKENS, whatever its length and its neighbours. A piece is one program, so
that a few long rows still keep a whole GPU busy, and a row's sums are made in the same order in every batch. A second
kernel adds the pieces up (Flash-Decoding, Dao and others 2023). Lengths are read in the kernels: a captured step needs
no word of the host's, and the number of pieces in its grid is that of the longest row there may be.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from worker.engine.cuda.float8 import from_float8

SPLIT_TOKENS = 256
_MAX_TILE = 64  # keys a program reads at a time
_MIN_GROUP = 16  # rows of the smallest product that tensor cores take; a group of query heads is filled up to it
_NO_WINDOW = 1 << 30


@dataclass(frozen=True, slots=True)
class Workspace:
    """What the pieces leave for the second kernel: sums are weighted by 2 to the power of score minus peak."""

    sums: Tensor  # [B, H, pieces, D] float32
    peaks: Tensor  # [B, H, pieces] float32
    masses: Tensor  # [B, H, pieces] float32

    @classmethod
    def allocate(
        cls, max_rows: int, num_heads: int, head_dim: int, *, max_tokens: int, device: torch.device
    ) -> "Workspace":
        """Make room for so many rows of at most max_tokens keys each."""
        shape = (max_rows, num_heads, triton.cdiv(max_tokens, SPLIT_TOKENS))

        def floats(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float32, device=device)

        return cls(floats(*shape, head_dim), floats(*shape), floats(*shape))


def attend_pages(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tables: Tensor,
    lengths: Tensor,
    workspace: Workspace,
    *,
    window: int | None = None,
    scales: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Attend with one query a row over its own keys: q [B, H, D] -> [B, H, D].

    k and v are [pages, Hkv, P, D], tables [B, N] int32 numbers each row's pages in order, lengths [B] int32 >= 1 counts
    its keys, of which the last `window` are seen. All are contiguous; P is 16, 32 or a multiple of 64 that divides 256.

    k and v have the dtype of q, or float8_e4m3fn. `scales`, float32 [Hkv] of keys and of values, multiply what the
    cache holds, see `place`.
    """
    num_rows, num_heads, head_dim = q.shape
    _, num_kv_heads, page_tokens, _ = k.shape
    group = num_heads // num_kv_heads
    num_pieces = workspace.peaks.shape[2]
    out = torch.empty_like(q)
    shape = {"HEAD_DIM": head_dim, "HEAD_PADDED": triton.next_power_of_2(head_dim), "SPLIT": SPLIT_TOKENS}
    _attend_pieces[(num_rows, num_kv_heads, num_pieces)](
        *(q, k, v, tables, lengths, workspace.sums, workspace.peaks, workspace.masses, *(scales or (q, q))),
        math.log2(math.e) / math.sqrt(head_dim),
        window or _NO_WINDOW,
        tables.stride(0),
        num_pieces,
        NUM_KV_HEADS=num_kv_heads,
        GROUP=group,
        GROUP_PADDED=max(_MIN_GROUP, triton.next_power_of_2(group)),
        PAGE=page_tokens,
        TILE=min(page_tokens, _MAX_TILE),
        HAS_SCALES=scales is not None,
        FLOAT8=k.dtype == torch.float8_e4m3fn,
        WIDEN=q.device.type == "cpu",
        **shape,
    )
    _add_up[(num_rows, num_heads)](
        *(workspace.sums, workspace.peaks, workspace.masses, lengths, out, window or _NO_WINDOW, num_pieces),
        NUM_HEADS=num_heads,
        **shape,
    )
    return out


@triton.jit(do_not_specialize=["num_pieces"])  # one binary, whatever the longest row is
def _attend_pieces(
    q,
    k,
    v,
    tables,
    lengths,
    sums,
    peaks,
    masses,
    k_scale,
    v_scale,
    scale,  # of scores that are powers of 2
    window,
    table_stride,
    num_pieces,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PADDED: tl.constexpr,
    PAGE: tl.constexpr,
    SPLIT: tl.constexpr,
    TILE: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    FLOAT8: tl.constexpr,
    WIDEN: tl.constexpr,  # the interpreter knows no products of bfloat16
):
    """Attend with the query heads of one key head over one piece of one row."""
    row, kv_head, piece = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row)
    first = tl.maximum(length - window, 0)
    start = piece * SPLIT
    end = tl.minimum(start + SPLIT, length)
    if end <= tl.maximum(start, first):
        return
    member, dim = tl.arange(0, GROUP_PADDED), tl.arange(0, HEAD_PADDED)
    head = row * NUM_KV_HEADS * GROUP + kv_head * GROUP + member
    is_dim = dim < HEAD_DIM
    is_query = (member < GROUP)[:, None] & is_dim[None, :]
    query = tl.load(q + head[:, None] * HEAD_DIM + dim[None, :], mask=is_query, other=0.0)
    if WIDEN:
        query = query.to(tl.float32)
    if HAS_SCALES:
        scale *= tl.load(k_scale + kv_head)
    peak = tl.full([GROUP_PADDED], float("-inf"), tl.float32)
    mass = tl.zeros([GROUP_PADDED], tl.float32)
    total = tl.zeros([GROUP_PADDED, HEAD_PADDED], tl.float32)
    for tile in range(tl.maximum(start, first // TILE * TILE), end, TILE):
        key = tile + tl.arange(0, TILE)
        is_seen = (key < end) & (key >= first)
        page = tl.load(tables + row * table_stride + tile // PAGE).to(tl.int64)
        place = (page * NUM_KV_HEADS + kv_head) * PAGE + key % PAGE
        address = place[:, None] * HEAD_DIM + dim[None, :]
        is_there = is_seen[:, None] & is_dim[None, :]
        keys = tl.load(k + address, mask=is_there, other=0.0)
        values = tl.load(v + address, mask=is_there, other=0.0)
        if FLOAT8:
            keys, values = from_float8(keys, query.dtype, WIDEN), from_float8(values, query.dtype, WIDEN)
        if WIDEN:
            keys, values = keys.to(tl.float32), values.to(tl.float32)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale
        scores = tl.where(is_seen[None, :], scores, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, 1))
        weights, shrink = tl.exp2(scores - new_peak[:, None]), tl.exp2(peak - new_peak)
        mass = mass * shrink + tl.sum(weights, 1)
        total = total * shrink[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        peak = new_peak
    if HAS_SCALES:
        total *= tl.load(v_scale + kv_head)
    place = head * num_pieces + piece
    tl.store(peaks + place, peak, mask=member < GROUP)
    tl.store(masses + place, mass, mask=member < GROUP)
    tl.store(sums + place[:, None] * HEAD_DIM + dim[None, :], total, mask=is_query)


@triton.jit(do_not_specialize=["num_pieces"])
def _add_up(
    sums,
    peaks,
    masses,
    lengths,
    out,
    window,
    num_pieces,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PADDED: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Add up the pieces of one head of one row, in their order."""
    row, head = tl.program_id(0), tl.program_id(1)
    length = tl.load(lengths + row)
    dim = tl.arange(0, HEAD_PADDED)
    is_dim = dim < HEAD_DIM
    base = (row * NUM_HEADS + head) * num_pieces
    peak = tl.full([1], float("-inf"), tl.float32)
    mass = tl.zeros([1], tl.float32)
    total = tl.zeros([HEAD_PADDED], tl.float32)
    for piece in range(tl.maximum(length - window, 0) // SPLIT, tl.cdiv(length, SPLIT)):
        other = tl.load(peaks + base + piece)
        new_peak = tl.maximum(peak, other)
        shrink, weight = tl.exp2(peak - new_peak), tl.exp2(other - new_peak)
        mass = mass * shrink + tl.load(masses + base + piece) * weight
        part = tl.load(sums + (base + piece) * HEAD_DIM + dim, mask=is_dim, other=0.0)
        total = total * shrink + part * weight
        peak = new_peak
    address = (row * NUM_HEADS + head) * HEAD_DIM + dim
    tl.store(out + address, (total / mass).to(out.dtype.element_ty), mask=is_dim)
