"""One matrix product, y = x W^T, and the layout of W that makes it fast on a CPU.

A weight is a plain tensor (training, CUDA, fallback) or the same tensor re-laid by oneDNN; `linear` takes both.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# The law of the batch: a row's bits may not depend on how many rows are multiplied with it, but kernels choose their
# blocking by that number. Packed float32 kept each row's sum order at every multiple of 16 rows on both processors
# tried. bfloat16 did on one; on the other (AMX), and F.linear there, more than 32 rows split the sum differently. So
# these are tried at load, shape by shape, and fed 32 rows at a time where they fail.
ROW_MULTIPLE = 16
_SAFE_ROWS = 32
_TRIED_ROWS = (512, 256, 192, 128, 96, 64, 48)  # no more than the first are multiplied at once
_PACK_ROWS = 64  # the row count oneDNN lays a weight out for; any count works afterwards


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply x [N, in] by weight [out, in], plain or packed, and add bias [out] -> [N, out].

    In inference N is a multiple of 16.
    """
    most = _most_rows(weight, x.dtype)
    if x.device.type == "cpu" and torch.is_inference_mode_enabled() and x.shape[0] > most:
        return torch.cat([_product(block, weight, bias) for block in torch.split(x, most)])
    return _product(x, weight, bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _packed_linear(x, weight, bias) if weight.is_mkldnn else F.linear(x, weight, bias)


def _packed_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def _most_rows(weight: Tensor, dtype: torch.dtype) -> int:
    """How many rows may be multiplied by a weight at once."""
    if weight.is_mkldnn and dtype == torch.float32:
        return 1 << 30
    return _TRIED_ROWS[0] if _tried.get(_kind(weight, dtype)) else _SAFE_ROWS


# Whether products of a kind have the same bits in large and small blocks: a fact of this machine, found out once.
_tried: dict[tuple[object, ...], bool] = {}


def _kind(weight: Tensor, dtype: torch.dtype) -> tuple[object, ...]:
    return (*weight.shape, dtype, weight.is_mkldnn, torch.get_num_threads())


@torch.inference_mode()
def try_large_blocks(weight: Tensor, dtype: torch.dtype) -> None:
    """Find out whether rows multiplied by a weight [out, in] many at a time have the bits they have 32 at a time."""
    kind = _kind(weight, dtype)
    if kind in _tried:
        return
    x = torch.randn(_TRIED_ROWS[0], weight.shape[1], generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = torch.cat([_product(block, weight, None) for block in torch.split(x, _SAFE_ROWS)])
    _tried[kind] = all(_product(x[:rows], weight, None).equal(expected[:rows]) for rows in _TRIED_ROWS)


def relay(weight: Tensor) -> Tensor:
    """Give a CPU weight the layout that `linear` multiplies by fastest."""
    packed = pack(weight)
    if weight.dtype != torch.float32:
        try_large_blocks(packed, weight.dtype)
    return packed


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
