"""The matrix product of the reproducible mode: a row's bits depend on that row and the weights alone.

cuBLAS chooses its kernel by the number of rows, and with it the tiles and whether the sum over `in` is split among
programs; each choice adds in another order, so that a row's last bits change with the rows beside it ("Defeating
Nondeterminism in LLM Inference", Thinking Machines, 2025). Here the number of rows decides how many programs there are
and nothing else: every element is one program's sum over `in`, in tiles of a constant size from the first to the last.
It is the price that few rows do the work of a whole tile, and that no split fills the GPU where `out` is small.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 64  # of x in a tile: what one product of a Hopper's warp group takes, and fewer would be no cheaper
_BUSY_PROGRAMS = 128  # about the processors of a GPU; below, tiles are made narrower
_TILE_BYTES = 128  # of `in` a tile reads of each row: a cache line
_GROUP = 8  # tiles of rows that run together over the same weights, so that both stay in the L2 cache


@dataclass(frozen=True, slots=True)
class Tiles:
    """Sizes of what a program multiplies at a time: rows of x, features of the result, and of those it sums over."""

    rows: int
    out: int
    inner: int


def choose_tiles(out_features: int, dtype: torch.dtype) -> Tiles:
    """Choose tiles for a weight [out, in]. The number of rows must have no say, or a row's bits would depend on it."""
    out = 128
    while out > 32 and out_features < out * _BUSY_PROGRAMS:
        out //= 2
    return Tiles(_ROWS, out, _TILE_BYTES // dtype.itemsize)


def invariant_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply x [N, in] by weight [out, in] and add bias [out], summed in float32 -> [N, out] in their dtype.

    A row has the same bits whatever N is, whatever the other rows hold and wherever it stands. float32 is multiplied as
    such, never as TF32. The rows of x may lie apart, their columns not; weight and bias are contiguous.
    """
    num_rows, in_features = x.shape
    out_features = weight.shape[0]
    out = x.new_empty(num_rows, out_features)
    tiles = choose_tiles(out_features, x.dtype)
    num_programs = triton.cdiv(num_rows, tiles.rows) * triton.cdiv(out_features, tiles.out)
    _linear[(num_programs,)](
        *(x, weight, weight if bias is None else bias, out, num_rows, in_features, out_features, x.stride(0)),
        HAS_BIAS=bias is not None,
        ROWS=tiles.rows,
        OUT=tiles.out,
        INNER=tiles.inner,
        GROUP=_GROUP,
        WIDEN=x.device.type == "cpu",
        num_warps=4,
        num_stages=3,
    )
    return out


@triton.jit(do_not_specialize=["num_rows"])  # one binary for 1 row, for 16 and for 17
def _linear(
    x,
    weight,
    bias,
    result,
    num_rows,
    in_features,
    out_features,
    row_stride,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    INNER: tl.constexpr,
    GROUP: tl.constexpr,
    WIDEN: tl.constexpr,  # the interpreter knows no products of bfloat16
):
    """Make one tile of the result."""
    row_tiles, out_tiles = tl.cdiv(num_rows, ROWS), tl.cdiv(out_features, OUT)
    # Column by column within GROUP rows of tiles. This says which tile a program has, not how it is computed.
    first_row_tile = tl.program_id(0) // (GROUP * out_tiles) * GROUP
    height = tl.minimum(row_tiles - first_row_tile, GROUP)
    within = tl.program_id(0) % (GROUP * out_tiles)
    row = ((first_row_tile + within % height) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    feature = (within // height * OUT + tl.arange(0, OUT)).to(tl.int64)
    is_row, is_feature = row < num_rows, feature < out_features
    total = tl.zeros([ROWS, OUT], tl.float32)
    for start in range(0, in_features, INNER):
        inner = start + tl.arange(0, INNER)
        is_inner = inner < in_features
        address = row[:, None] * row_stride + inner[None, :]
        left = tl.load(x + address, mask=is_row[:, None] & is_inner[None, :], other=0.0)
        address = feature[None, :] * in_features + inner[:, None]
        right = tl.load(weight + address, mask=is_feature[None, :] & is_inner[:, None], other=0.0)
        if WIDEN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        total = tl.dot(left, right, total, input_precision="ieee")
    if HAS_BIAS:
        total += tl.load(bias + feature, mask=is_feature, other=0.0).to(tl.float32)[None, :]
    address = row[:, None] * out_features + feature[None, :]
    tl.store(result + address, total.to(result.dtype.element_ty), mask=is_row[:, None] & is_feature[None, :])
