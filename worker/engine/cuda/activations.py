"""What bends the MLP, in one pass over memory."""

import triton
import triton.language as tl
from torch import Tensor

_TILE = 1024  # elements a program takes


def swiglu(gate_up: Tensor) -> Tensor:
    """Compute silu(gate) * up of gate_up [N, 2 I], gate first -> [N, I].

    As worker/engine/activation.py does: silu in float32, rounded, and the product rounded again.
    """
    num_rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(num_rows, size)
    _swiglu[(num_rows, triton.cdiv(size, _TILE))](gate_up, out, gate_up.stride(0), size, TILE=_TILE)
    return out


@triton.jit
def _swiglu(gate_up, out, row_stride, size, TILE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    is_column = column < size
    base = gate_up + row * row_stride + column
    stored = tl.load(base, mask=is_column, other=0.0)
    gate, up = stored.to(tl.float32), tl.load(base + size, mask=is_column, other=0.0).to(tl.float32)
    bent = (gate / (1 + tl.exp(-gate))).to(stored.dtype).to(tl.float32)
    tl.store(out + row * size + column, (bent * up).to(stored.dtype), mask=is_column)
