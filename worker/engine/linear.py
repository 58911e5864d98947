"""One matrix product, y = x W^T, and the layout of W that makes it fast on a CPU.

A weight is a plain tensor (training, CUDA, fallback) or the same tensor re-laid by oneDNN; `linear` takes both.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# The law of the batch: a row's bits may not depend on how many rows are multiplied with it, but kernels choose their
# blocking by that number. Measured: packed float32 keeps each row's sum order at every multiple of 16 rows; bfloat16
# (AMX) and F.linear split the sum differently above 32 rows, so these are fed at most 32 at a time.
ROW_MULTIPLE = 16
_MAX_BLOCK_ROWS = 32
_PACK_ROWS = 64  # the row count oneDNN lays a weight out for; any count works afterwards


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply x [N, in] by weight [out, in], plain or packed, and add bias [out] -> [N, out].

    In inference N is a multiple of 16.
    """
    if weight.is_mkldnn and x.dtype == torch.float32:
        return _packed_linear(x, weight, bias)
    if x.device.type == "cpu" and torch.is_inference_mode_enabled() and x.shape[0] > _MAX_BLOCK_ROWS:
        return torch.cat([_block_linear(block, weight, bias) for block in torch.split(x, _MAX_BLOCK_ROWS)])
    return _block_linear(x, weight, bias)


def _block_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _packed_linear(x, weight, bias) if weight.is_mkldnn else F.linear(x, weight, bias)


def _packed_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def pack(weight: Tensor) -> Tensor:
    """Re-lay a CPU weight once into oneDNN's blocked layout, which F.linear would redo on every call."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _PACK_ROWS)
    return packed


def packing_works(dtype: torch.dtype) -> bool:
    """Try the private oneDNN calls on a small product; False where they are missing or wrong."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROW_MULTIPLE, 96, generator=generator).to(dtype)
    weight = torch.randn(160, 96, generator=generator).to(dtype)
    bias = torch.randn(160, generator=generator).to(dtype)
    try:
        product = _packed_linear(x, pack(weight), bias)
    except (RuntimeError, AttributeError, TypeError):
        return False
    expected = x.double() @ weight.double().T + bias.double()
    tolerance = 64 * torch.finfo(dtype).eps * expected.abs().max().item()
    return bool((product.double() - expected).abs().max().item() <= tolerance)


def round_up(count: int, multiple: int) -> int:
    """Round a count up to a multiple."""
    return -(-count // multiple) * multiple
