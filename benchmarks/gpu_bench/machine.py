"""What it was measured on."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_LIBRARIES = ("torch", "triton", "transformers", "flash-attn", "kernels", "vllm", "sglang")


def describe_machine(device: torch.device) -> dict[str, str]:
    """The device, the processor and the versions of what ran; libraries that are not installed are left out."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    found = {"device": name, "processor": _processor(), "python": platform.python_version()}
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:  # an optional one
            continue
    return found


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
