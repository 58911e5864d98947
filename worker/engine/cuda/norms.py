"""Norms over the last axis: the root mean square of activations, and the log of the sum of exponentials of scores.

A row is summed in one order, whatever the rows beside it: by one program, or in pieces whose size is constant.
"""

import triton
import triton.language as tl
from torch import Tensor

_ELEMENTS_PER_WARP = 256  # 8 a thread: one load of 16 bytes in 16 bits
_MAX_WARPS = 16
PIECE_SCORES = 8192  # of a vocabulary of 128k 16 programs a row, so that a few rows still keep a whole GPU busy


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each last axis of x [..., C] to unit mean square, in float32, then by weight [C]; the result is contiguous.

    x may be a part of the heads of [N, heads, D], or of the columns of [N, C]: it is read where it lies. Of C there may
    be 16384.
    """
    size = x.shape[-1]
    rows = x if x.dim() == 3 else x.reshape(-1, 1, size)
    if rows.stride(-1) != 1:
        rows = rows.contiguous()
    out = x.new_empty(x.shape)
    num_heads = rows.shape[1]
    _rms_norm[(rows.shape[0] * num_heads,)](
        *(rows, weight, out, eps, rows.stride(0), rows.stride(1)), HEADS=num_heads, **_row_shape(size)
    )
    return out


def add_rms_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Give x + delta [N, C], rounded to their dtype, and the norm of it as `rms_norm` has it; both contiguous.

    The rows of x and delta may lie apart, their columns not.
    """
    num_rows, size = x.shape
    total, normed = x.new_empty(x.shape), x.new_empty(x.shape)
    _add_rms_norm[(num_rows,)](
        *(x, delta, weight, total, normed, eps, x.stride(0), delta.stride(0)), **_row_shape(size)
    )
    return total, normed


def log_norm(scores: Tensor) -> Tensor:
    """Log of the sum of exponentials [B] of each row of scores [B, V], float32.

    NaN for a row with NaN or infinity in it; minus infinity counts as no score. In two levels, since one program a row
    would leave most of a GPU idle below a hundred rows.
    """
    num_rows, vocabulary = scores.shape
    num_pieces = triton.cdiv(vocabulary, PIECE_SCORES)
    peaks, masses = scores.new_empty(num_rows, num_pieces), scores.new_empty(num_rows, num_pieces)
    out = scores.new_empty(num_rows)
    _sum_pieces[(num_rows, num_pieces)](
        *(scores.contiguous(), peaks, masses, vocabulary),
        PIECE=PIECE_SCORES,
        num_warps=_MAX_WARPS,
    )
    _sum_rows[(num_rows,)](peaks, masses, out, num_pieces, PADDED=triton.next_power_of_2(num_pieces))
    return out


def _row_shape(size: int) -> dict[str, int]:
    padded = triton.next_power_of_2(size)
    return {"SIZE": size, "PADDED": padded, "num_warps": min(max(padded // _ELEMENTS_PER_WARP, 1), _MAX_WARPS)}


@triton.jit
def _rms_norm(
    x,
    weight,
    out,
    eps,
    row_stride,
    head_stride,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
):
    """Take one head of one row."""
    program = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, PADDED)
    is_column = column < SIZE
    base = x + program // HEADS * row_stride + program % HEADS * head_stride
    row = tl.load(base + column, mask=is_column, other=0.0).to(tl.float32)
    normed = _normed(row, weight, column, is_column, eps, SIZE)
    tl.store(out + program * SIZE + column, normed.to(out.dtype.element_ty), mask=is_column)


@triton.jit
def _add_rms_norm(
    x,
    delta,
    weight,
    total,
    normed,
    eps,
    x_stride,
    delta_stride,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
):
    """Take one row; it is the rounded sum that is normed."""
    program = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, PADDED)
    is_column = column < SIZE
    row = tl.load(x + program * x_stride + column, mask=is_column, other=0.0).to(tl.float32)
    row += tl.load(delta + program * delta_stride + column, mask=is_column, other=0.0).to(tl.float32)
    rounded = row.to(total.dtype.element_ty)
    result = _normed(rounded.to(tl.float32), weight, column, is_column, eps, SIZE)
    tl.store(total + program * SIZE + column, rounded, mask=is_column)
    tl.store(normed + program * SIZE + column, result.to(normed.dtype.element_ty), mask=is_column)


@triton.jit
def _normed(row, weight, column, is_column, eps, SIZE: tl.constexpr):
    """Scale one row, in float32 and with zeros beyond its end."""
    scale = tl.rsqrt(tl.sum(row * row, 0) / SIZE + eps)
    return row * scale * tl.load(weight + column, mask=is_column, other=0.0).to(tl.float32)


@triton.jit
def _sum_pieces(scores, peaks, masses, vocabulary, PIECE: tl.constexpr):
    """Find the highest score of a piece, and add up its exponentials relative to that."""
    row, piece = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = piece * PIECE + tl.arange(0, PIECE)
    score = tl.load(scores + row * vocabulary + column, mask=column < vocabulary, other=float("-inf"))
    peak = tl.max(score, 0)
    level = tl.where(peak == float("-inf"), 0.0, peak)  # minus infinity less itself would be NaN
    place = row * tl.num_programs(1) + piece
    tl.store(peaks + place, peak)
    tl.store(masses + place, tl.sum(tl.exp(score - level), 0))


@triton.jit
def _sum_rows(peaks, masses, out, num_pieces, PADDED: tl.constexpr):
    """Add up the pieces of one row."""
    row = tl.program_id(0)
    piece = tl.arange(0, PADDED)
    peak = tl.load(peaks + row * num_pieces + piece, mask=piece < num_pieces, other=float("-inf"))
    mass = tl.load(masses + row * num_pieces + piece, mask=piece < num_pieces, other=0.0)
    highest = tl.max(peak, 0)
    level = tl.where(highest == float("-inf"), 0.0, highest)
    tl.store(out + row, tl.log(tl.sum(mass * tl.exp(peak - level), 0)) + level)
