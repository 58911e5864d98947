"""The operations of the transformer on a GPU: between the products one kernel and one pass over memory each."""

import torch.nn.functional as F
from torch import Tensor

from worker.engine.cuda.activations import swiglu
from worker.engine.cuda.matmul import invariant_linear
from worker.engine.cuda.norms import add_rms_norm, log_norm, rms_norm
from worker.engine.rope import Rotation, rotate


class CudaOps:
    """See `Ops`. Without gradients; every call may be captured in a CUDA graph."""

    def __init__(self, *, reproducible: bool = False) -> None:
        """`reproducible` multiplies so that a row's bits do not depend on the number of rows: see matmul.py."""
        self._linear = invariant_linear if reproducible else F.linear

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply x [N, in] by weight [out, in] and add bias [out] -> [N, out]."""
        return self._linear(x, weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Scale each last axis of x [..., C] to unit mean square, in float32, then by weight [C]."""
        return rms_norm(x, weight, eps)

    def add_norm(self, x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Add delta to x, both [N, C] -> the sum, rounded to their dtype, and its rms_norm."""
        return add_rms_norm(x, delta, weight, eps)

    def swiglu(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up of gate_up [N, 2 I], gate first -> [N, I]."""
        return swiglu(gate_up)

    def rotate(self, x: Tensor, rotation: Rotation) -> Tensor:
        """Turn x [N, heads, D] by its tokens' angles. In torch: `placing` rotates what goes to pages."""
        return rotate(x, rotation)

    def log_norm(self, scores: Tensor) -> Tensor:
        """Log of the sum of exponentials [B] of each row of scores [B, V], float32."""
        return log_norm(scores)
