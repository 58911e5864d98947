"""The fastest way that there is to compute a model on a device, and the name of each part of it."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from worker.engine.attention import Attention, NativeAttention, TorchAttention
from worker.engine.kv_dtype import check_kv_dtype
from worker.engine.native import NativeError, Shape, load_kernel, load_ops
from worker.engine.ops import TORCH_OPS, Ops
from worker.engine.sampling import Choose, choose_by_torch
from worker.engine.spec import Spec
from worker.engine.types import EngineError


@dataclass(frozen=True, slots=True)
class FastPaths:
    """How a model is computed. `names` says it to people: each part's way, or why it is not the fastest."""

    attention: Attention[Any]
    ops: Ops
    names: dict[str, str]
    choose: Choose = choose_by_torch
    has_device_step: bool = False  # whether plain rows can be decoded without asking the host: see GraphedStep


def choose_fast_paths(
    spec: Spec,
    device: torch.device,
    dtype: torch.dtype,
    kernel_folder: Path | None = None,
    *,
    reproducible: bool = False,
    kv_dtype: str = "auto",
) -> FastPaths:
    """Take the fastest attention, operations and sampler there are for a model. `reproducible`: those of them that give
    a row the same bits in every batch, which on a CPU all do. Raises EngineError where that or the cache's dtype cannot
    be had."""
    check_kv_dtype(kv_dtype, device, has_kernels=uses_pages(device))
    if uses_pages(device):
        return cuda_paths(spec, reproducible=reproducible, kv_dtype=kv_dtype)
    if device.type != "cpu":
        if reproducible:
            raise EngineError("the reproducible mode needs Triton on a GPU")
        names = {"attention": "masked, since Triton is not installed", "operations": "torch"}
        return FastPaths(TorchAttention(spec, TORCH_OPS, masked=True), TORCH_OPS, names)
    try:
        shape = Shape(spec.head_dim, spec.num_heads, spec.num_kv_heads, dtype)
        kernel, ops = load_kernel(shape, kernel_folder), load_ops(dtype, kernel_folder)
    except NativeError as error:
        names = dict.fromkeys(("attention", "operations"), f"torch, since {error}")
        return FastPaths(TorchAttention(spec, TORCH_OPS, masked=False), TORCH_OPS, names)
    names = {"attention": "compiled", "operations": "compiled"}
    return FastPaths(NativeAttention(kernel, spec, ops), ops, names)


def uses_pages(device: torch.device) -> bool:
    """Whether a device's cache is kept in pages, and its operations are kernels in Triton."""
    return device.type == "cuda" and find_spec("triton") is not None


def cuda_paths(spec: Spec, *, reproducible: bool, kv_dtype: str = "auto") -> FastPaths:
    """The kernels in Triton, which its interpreter runs on a CPU too."""
    from worker.engine.cuda.attention import PagedAttention  # Triton is not everywhere
    from worker.engine.cuda.choosing import choose_by_kernels
    from worker.engine.cuda.ops import CudaOps

    names = {"attention": "paged", "operations": "compiled", "sampling": "compiled"}
    if reproducible:
        names["products"] = "batch-invariant"
    if kv_dtype != "auto":
        names["cache"] = kv_dtype
    return FastPaths(
        PagedAttention(spec), CudaOps(reproducible=reproducible), names, choose_by_kernels, has_device_step=True
    )
