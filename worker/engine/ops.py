"""The operations of the transformer, as tensor operations. Those between the products may be compiled, see `native`."""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from worker.engine.activation import swiglu
from worker.engine.linear import linear
from worker.engine.reductions import log_norm
from worker.engine.rope import Rotation, rotate


class Ops(Protocol):
    """What the transformer and the sampler compute. A row's result depends on that row alone."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply x [N, in] by weight [out, in] and add bias [out] -> [N, out]."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Scale each last axis of x [..., C] to unit mean square, in float32, then by weight [C]."""

    def add_norm(self, x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Add delta to x, both [N, C] -> the sum, rounded to their dtype, and its rms_norm."""

    def swiglu(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up of gate_up [N, 2 I], gate first -> [N, I]."""

    def rotate(self, x: Tensor, rotation: Rotation) -> Tensor:
        """Turn x [N, heads, D] by its tokens' angles; may do so in place."""

    def log_norm(self, scores: Tensor) -> Tensor:
        """Log of the sum of exponentials [B] of each row of scores [B, V]."""


class TorchOps:
    """See `Ops`. On any device, and with gradients."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply x [N, in] by weight [out, in], plain or packed, and add bias [out] -> [N, out]."""
        return linear(x, weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Scale each last axis of x [..., C] to unit mean square, in float32, then by weight [C]."""
        return F.rms_norm(x, (x.shape[-1],), weight, eps)

    def add_norm(self, x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Add delta to x, both [N, C] -> the sum, rounded to their dtype, and its rms_norm."""
        total = x + delta
        return total, self.rms_norm(total, weight, eps)

    def swiglu(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up of gate_up [N, 2 I], gate first -> [N, I]."""
        return swiglu(gate_up)

    def rotate(self, x: Tensor, rotation: Rotation) -> Tensor:
        """Turn x [N, heads, D] by its tokens' angles."""
        return rotate(x, rotation)

    def log_norm(self, scores: Tensor) -> Tensor:
        """Log of the sum of exponentials [B] of each row of scores [B, V]."""
        return log_norm(scores)


TORCH_OPS = TorchOps()
