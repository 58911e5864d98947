"""The compiled operations between the matrix products. The same as TorchOps, in one pass over memory each."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from worker.engine.linear import linear
from worker.engine.native.build import ELEMENT_BITS, NativeError, load_library
from worker.engine.ops import TORCH_OPS, Ops
from worker.engine.rope import Rotation

_INT, _POINTER, _FLOAT, _THREADS = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float, ctypes.c_int


class NativeOps:
    """See `Ops`. Tensors are on the CPU; activations in the dtype it was loaded for, scores in float32."""

    def __init__(self, activations: ctypes.CDLL, scores: ctypes.CDLL) -> None:
        self._rms_norm, self._swiglu, self._rotate = activations.rms_norm, activations.swiglu, activations.rotate
        self._log_norm = scores.log_norm
        self._rms_norm.argtypes = [_POINTER, *[_INT] * 3, *[_POINTER] * 2, *[_INT] * 2, _FLOAT, _THREADS]
        self._swiglu.argtypes = [*[_POINTER] * 2, *[_INT] * 2, _THREADS]
        self._rotate.argtypes = [_POINTER, *[_INT] * 3, *[_POINTER] * 2, *[_INT] * 2, _THREADS]
        self._log_norm.argtypes = self._swiglu.argtypes
        for function in (self._rms_norm, self._swiglu, self._rotate, self._log_norm):
            function.restype = None

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply x [N, in] by weight [out, in], plain or packed, and add bias [out] -> [N, out]."""
        return linear(x, weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Scale each last axis of x [..., C] to unit mean square, then by weight [C]."""
        size = x.shape[-1]
        heads = x.shape[1] if x.dim() == 3 else 1
        strides = (x.stride(0), x.stride(1) if x.dim() == 3 else 0)
        out = x.new_empty(x.shape)
        places = (x.data_ptr(), *strides, heads, weight.data_ptr(), out.data_ptr())
        self._rms_norm(*places, x.shape[0] * heads, size, eps, torch.get_num_threads())
        return out

    def add_norm(self, x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Add delta to x, both [N, C] -> the sum, rounded to their dtype, and its rms_norm."""
        total = x + delta
        return total, self.rms_norm(total, weight, eps)

    def swiglu(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up of gate_up [N, 2 I], gate first -> [N, I]."""
        num_rows, size = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(num_rows, size)
        self._swiglu(gate_up.data_ptr(), out.data_ptr(), num_rows, size, torch.get_num_threads())
        return out

    def rotate(self, x: Tensor, rotation: Rotation) -> Tensor:
        """Turn x [N, heads, D] by cos and signed sin [N, 1, R], in place."""
        cos, sin = rotation
        num_rows, heads, head_dim = x.shape
        sizes = (num_rows, cos.shape[-1], torch.get_num_threads())
        self._rotate(x.data_ptr(), x.stride(0), heads, head_dim, cos.data_ptr(), sin.data_ptr(), *sizes)
        return x

    def log_norm(self, scores: Tensor) -> Tensor:
        """Log of the sum of exponentials [B] of each row of scores [B, V]."""
        scores = scores.contiguous()
        out = scores.new_empty(len(scores))
        self._log_norm(scores.data_ptr(), out.data_ptr(), *scores.shape, torch.get_num_threads())
        return out


def load_ops(dtype: torch.dtype, folder: Path | None = None) -> NativeOps:
    """Compile, load and check the operations. Raises NativeError."""
    if dtype not in ELEMENT_BITS:
        raise NativeError(f"there are no compiled operations for {dtype}")
    libraries = [load_library("ops.cpp", {"ELEMENT_BITS": bits}, folder) for bits in (ELEMENT_BITS[dtype], 32)]
    ops = NativeOps(*libraries)
    if not agree(ops, dtype):
        raise NativeError("the compiled operations compute something else than the plain formulas")
    return ops


def agree(ops: Ops, dtype: torch.dtype) -> bool:
    """Compare operations with torch's, at sizes that leave remainders."""
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int, dtype: torch.dtype = dtype) -> Tensor:
        return (torch.randn(size, generator=generator) * 3).to(dtype)

    heads, weight, gate_up, scores = draw(5, 3, 40), draw(40), draw(5, 74), draw(5, 107, dtype=torch.float32)
    angles = torch.cat([draw(5, 1, 17)] * 2, -1)
    rotation = (angles, torch.cat([-angles[..., :17], angles[..., :17]], -1))
    pairs = [
        (ops.rms_norm(heads[:, :2], weight, 1e-5), TORCH_OPS.rms_norm(heads[:, :2], weight, 1e-5)),
        (ops.rms_norm(heads[:, 0], weight, 1e-5), TORCH_OPS.rms_norm(heads[:, 0], weight, 1e-5)),
        *zip(
            ops.add_norm(heads[:, 0], heads[:, 1], weight, 1e-5),
            TORCH_OPS.add_norm(heads[:, 0], heads[:, 1], weight, 1e-5),
            strict=True,
        ),
        (ops.linear(gate_up[:, :40], heads[0], weight[:3]), TORCH_OPS.linear(gate_up[:, :40], heads[0], weight[:3])),
        (ops.swiglu(gate_up), TORCH_OPS.swiglu(gate_up)),
        (ops.rotate(heads.clone()[:, :2], rotation), TORCH_OPS.rotate(heads[:, :2], rotation)),
        (ops.log_norm(scores), TORCH_OPS.log_norm(scores)),
    ]
    tolerance = 16 * torch.finfo(dtype).eps
    return all(torch.allclose(a.float(), b.float(), rtol=tolerance, atol=4 * tolerance) for a, b in pairs)
