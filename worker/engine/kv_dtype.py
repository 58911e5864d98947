"""The number format of keys and values in the cache: the model's own, or 8 bits where kernels read them."""

import torch

from worker.engine.types import EngineError

KV_DTYPES = ("auto", "fp8")
FP8 = torch.float8_e4m3fn
FP8_CAPABILITY = (8, 9)  # of CUDA, from which on a GPU converts such numbers


def choose_kv_dtype(kv_dtype: str, dtype: torch.dtype) -> torch.dtype:
    """Turn a name into the cache's dtype; "auto" is `dtype`, the model's. Raises EngineError for another name."""
    if kv_dtype not in KV_DTYPES:
        raise EngineError(f"kv_dtype {kv_dtype!r} is not known; {' and '.join(KV_DTYPES)} are")
    return dtype if kv_dtype == "auto" else FP8


def check_kv_dtype(kv_dtype: str, device: torch.device, *, has_kernels: bool) -> None:
    """Raise EngineError where a device cannot keep keys and values so. `has_kernels`: Triton is there to make them."""
    if kv_dtype == "auto":
        return
    if not has_kernels or torch.cuda.get_device_capability(device) < FP8_CAPABILITY:
        raise EngineError("kv_dtype fp8 needs a CUDA device of compute capability 8.9 or newer, and Triton")
