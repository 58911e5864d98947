"""How much memory is left, as far as the machine and its container tell."""

from pathlib import Path

import torch

# The cache may take this share of what is free once the weights are loaded; activations and the host need the rest.
CACHE_SHARE = 0.5
_UNKNOWN_BYTES = 4 * 1024**3  # assumed free where the system does not say


def available_bytes(device: torch.device) -> int:
    """Bytes free on a device: the CUDA driver's word, or the less of the machine's and the container's."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    known = [free for free in (_machine_bytes(), _container_bytes()) if free is not None]
    return min(known, default=_UNKNOWN_BYTES)


def _machine_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    text = _read(meminfo) or ""
    lines = [line.split() for line in text.splitlines() if line.startswith("MemAvailable:")]
    return int(lines[0][1]) * 1024 if lines else None


def _container_bytes(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Limit minus use of a version 2 control group; None where there is no limit."""
    limit, used = _read(group / "memory.max"), _read(group / "memory.current")
    if limit is None or used is None or not limit.strip().isdigit():
        return None
    return max(int(limit) - int(used), 0)


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
