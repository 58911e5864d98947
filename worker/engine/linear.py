"""One matrix product, y = x W^T, and the layout of W that makes it fast on a CPU.

A weight is a plain tensor (training, CUDA, fallback) or the same tensor re-laid by oneDNN; `linear` takes both.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# The law of the batch: a row's bits may not depend on how many rows are multiplied with it. Kernels choose their
# blocking by the number of rows; with row counts in multiples of 16 the choice leaves each row's sum order alone.
ROW_MULTIPLE = 16
_PACK_ROWS = 64  # the row count oneDNN lays a weight out for; any count works afterwards


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply x [N, in] by weight [out, in], plain or packed -> [N, out]."""
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")  # type: ignore[no-any-return]
    return F.linear(x, weight)


def pack(weight: Tensor) -> Tensor:
    """Re-lay a CPU weight once into oneDNN's blocked layout, which F.linear would redo on every call."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, _PACK_ROWS)  # type: ignore[no-any-return]


def packing_works(dtype: torch.dtype) -> bool:
    """Try the private oneDNN calls on a small product; False where they are missing or wrong."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROW_MULTIPLE, 96, generator=generator).to(dtype)
    weight = torch.randn(160, 96, generator=generator).to(dtype)
    try:
        product = linear(x, pack(weight))
    except (RuntimeError, AttributeError, TypeError):
        return False
    expected = x.double() @ weight.double().T
    tolerance = 64 * torch.finfo(dtype).eps * expected.abs().max().item()
    return bool((product.double() - expected).abs().max().item() <= tolerance)


def round_up(count: int, multiple: int) -> int:
    """Round a count up to a multiple."""
    return -(-count // multiple) * multiple
