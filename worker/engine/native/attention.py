"""The compiled attention of single queries over the cache, for one model shape."""

import ctypes
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.engine.native.build import ELEMENT_BITS, NativeError, load_library

KEY_BLOCK = 16  # keys that lie side by side in the cache; the kernel's vector length
_INT, _POINTER = ctypes.c_int64, ctypes.c_void_p


@dataclass(frozen=True, slots=True)
class Shape:
    """What the kernel is compiled for."""

    head_dim: int
    num_heads: int
    num_kv_heads: int
    dtype: torch.dtype

    def macros(self) -> dict[str, int]:
        """Macros for the compiler."""
        return {
            "HEAD_DIM": self.head_dim,
            "GROUP": self.num_heads // self.num_kv_heads,
            "NUM_KV_HEADS": self.num_kv_heads,
            "ELEMENT_BITS": ELEMENT_BITS[self.dtype],
        }


class Kernel:
    """The compiled functions, for tensors. All tensors are on the CPU, in the shape's dtype, int64 for indices."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._store, self._attend = library.store, library.attend
        self._store.argtypes = [_POINTER, _INT, _POINTER, _INT, *[_POINTER] * 2, _INT, *[_POINTER] * 2, _INT]
        self._attend.argtypes = [_POINTER, _INT, *[_POINTER] * 3, _INT, *[_POINTER] * 2, _INT, _INT, ctypes.c_int]
        self._store.restype = self._attend.restype = None

    def store(
        self, k: Tensor, v: Tensor, cache_k: Tensor, cache_v: Tensor, *, slots: Tensor, positions: Tensor
    ) -> None:
        """Write k, v [N, Hkv, D] of tokens at (slots [N], positions [N]) into one layer's cache.

        cache_k is [S, Hkv, T / 16, D, 16], cache_v [S, Hkv, T, D].
        """
        k, v = _dense_heads(k), _dense_heads(v)
        pointers = (cache_k.data_ptr(), cache_v.data_ptr())
        places = (slots.data_ptr(), positions.data_ptr(), len(slots))
        self._store(k.data_ptr(), k.stride(0), v.data_ptr(), v.stride(0), *pointers, cache_v.shape[2], *places)

    def attend(
        self, q: Tensor, cache_k: Tensor, cache_v: Tensor, out: Tensor, *, slots: Tensor, positions: Tensor, window: int
    ) -> None:
        """Attend with q [N, H, D] over each one's slot up to its position, into the first N rows of out [>= N, H * D].

        window > 0 limits that to the newest keys, its own among them.
        """
        q = _dense_heads(q)
        pointers = (q.data_ptr(), q.stride(0), out.data_ptr(), cache_k.data_ptr(), cache_v.data_ptr())
        places = (slots.data_ptr(), positions.data_ptr(), len(slots))
        self._attend(*pointers, cache_v.shape[2], *places, window, torch.get_num_threads())


def load_kernel(shape: Shape, folder: Path | None = None) -> Kernel:
    """Compile, load and check the kernel. Raises NativeError."""
    if shape.dtype not in ELEMENT_BITS or shape.head_dim % 2:
        raise NativeError(f"there is no kernel for {shape.dtype} and a head size of {shape.head_dim}")
    kernel = Kernel(load_library("attention.cpp", shape.macros(), folder))
    if not agrees(kernel, shape):
        raise NativeError("the compiled attention computes something else than the plain formula")
    return kernel


def agrees(kernel: Kernel, shape: Shape) -> bool:
    """Compare the kernel with torch's attention on a small cache, with and without a window."""
    generator = torch.Generator().manual_seed(0)
    heads, kv_heads, dim, num_keys = shape.num_heads, shape.num_kv_heads, shape.head_dim, 45

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(shape.dtype)

    k, v, q = draw(num_keys, kv_heads, dim), draw(num_keys, kv_heads, dim), draw(num_keys, heads, dim)
    cache_k = torch.full((2, kv_heads, 3, dim, KEY_BLOCK), torch.nan, dtype=shape.dtype)
    cache_v = torch.full((2, kv_heads, 3 * KEY_BLOCK, dim), torch.nan, dtype=shape.dtype)
    places = {"slots": torch.ones(num_keys, dtype=torch.int64), "positions": torch.arange(num_keys)}
    kernel.store(k, v, cache_k, cache_v, **places)
    distance = torch.arange(num_keys)[:, None] - torch.arange(num_keys)
    for window in (0, 20):
        out = q.new_empty(num_keys, heads * dim)
        kernel.attend(q, cache_k, cache_v, out, window=window, **places)
        seen = (distance >= 0) & (distance < (window or num_keys))
        q_, k_, v_ = (x.float().transpose(0, 1)[None] for x in (q, k, v))
        expected = F.scaled_dot_product_attention(q_, k_, v_, attn_mask=seen, enable_gqa=True)[0].transpose(0, 1)
        tolerance = 64 * torch.finfo(shape.dtype).eps
        if not (out.float() - expected.flatten(1)).abs().max().item() <= tolerance:
            return False
    return True


def _dense_heads(x: Tensor) -> Tensor:
    """Make each token's heads [heads, D] lie end to end; tokens themselves may lie apart."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()
