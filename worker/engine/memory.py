"""How much memory is left, as far as the machine and its container tell."""

from pathlib import Path

import torch

from worker.engine.types import EngineError

# The cache may take this share of what is free once the weights are loaded; activations and the host need the rest.
CACHE_SHARE = 0.5
# Of a GPU's whole memory what weights and cache may take together, whoever else is there counted in: vLLM's
# gpu_memory_utilization, and its default. A GPU is rarely shared, and what is left free on one serves nobody.
GPU_MEMORY_FRACTION = 0.9
# Rows decoded together unless told otherwise: as many as fit with so many tokens each, within these bounds. On a CPU a
# token cost 0.77 ms at 32 rows, 0.65 at 64, 0.60 at 128; a GPU goes on gaining.
_TYPICAL_TOKENS = 1024
_MIN_ROWS, _MAX_ROWS_CPU, _MAX_ROWS_CUDA = 16, 128, 256
_ROW_STEP = 16
_UNKNOWN_BYTES = 4 * 1024**3  # assumed free where the system does not say


def available_bytes(device: torch.device) -> int:
    """Bytes free on a device: the CUDA driver's word, or the less of the machine's and the container's."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    known = [free for free in (_machine_bytes(), _container_bytes(), _old_container_bytes()) if free is not None]
    return min(known, default=_UNKNOWN_BYTES)


def cache_bytes(device: torch.device, *, gpu_memory_fraction: float | None) -> int:
    """Bytes that keys and values may take, the weights being loaded: that fraction of a GPU's memory less what is in
    use of it, by anybody; on a CPU, or with None beside another engine, a share of what is free.

    Raises EngineError where nothing is left of the fraction.
    """
    if device.type != "cuda" or gpu_memory_fraction is None:
        return int(available_bytes(device) * CACHE_SHARE)
    torch.cuda.empty_cache()  # what loading left behind in the allocator counts as used
    free, total = torch.cuda.mem_get_info(device)
    left = int(total * gpu_memory_fraction) - (total - free)
    if left <= 0:
        raise EngineError(
            f"no memory is left for keys and values: {(total - free) / 2**30:.1f} of the GPU's {total / 2**30:.1f} GiB"
            f" are in use, and a gpu_memory_fraction of {gpu_memory_fraction:g} allows no more"
        )
    return left


def choose_rows(budget_tokens: int, *, max_model_len: int, device: torch.device) -> int:
    """How many rows to decode together, a multiple of 16: a cache of so many tokens holds them at a typical length."""
    most = _MAX_ROWS_CUDA if device.type == "cuda" else _MAX_ROWS_CPU
    rows = budget_tokens // min(max_model_len, _TYPICAL_TOKENS)
    return max(_MIN_ROWS, min(rows // _ROW_STEP * _ROW_STEP, most))


def _machine_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    text = _read(meminfo) or ""
    lines = [line.split() for line in text.splitlines() if line.startswith("MemAvailable:")]
    return int(lines[0][1]) * 1024 if lines else None


def _container_bytes(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Limit minus use of a version 2 control group; None where there is no limit."""
    return _left(group, limit="memory.max", used="memory.current", cached="inactive_file")


def _old_container_bytes(group: Path = Path("/sys/fs/cgroup/memory")) -> int | None:
    """The same of a version 1 group, where no limit is a number beyond any machine's memory."""
    return _left(group, limit="memory.limit_in_bytes", used="memory.usage_in_bytes", cached="total_inactive_file")


def _left(group: Path, *, limit: str, used: str, cached: str) -> int | None:
    """Limit minus use; file pages that the kernel drops on demand, as of weights just read, are not use."""
    limit_text, used_text = _read(group / limit), _read(group / used)
    if limit_text is None or used_text is None or not limit_text.strip().isdigit():
        return None
    lines = [line.split() for line in (_read(group / "memory.stat") or "").splitlines()]
    dropped = sum(int(line[1]) for line in lines if line[0] == cached)
    return max(int(limit_text) - max(int(used_text) - dropped, 0), 0)


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
