"""Which devices `batchmill worker --devices` names, and what makes a process the worker of one of them.

Imports no torch: CUDA begins in the process that decodes, never in one that starts others.
"""

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import typer

ALL, CPU = "all", "cpu"
VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
_GPU = re.compile(r"cuda|(?:cuda:)?([0-9]+)")
_COUNT = "import torch; print(torch.cuda.device_count())"


@dataclass(frozen=True, slots=True)
class Device:
    """A device for one process alone: `kind` is what that process calls it, `name` what tells it from the others."""

    kind: str  # cuda or cpu
    name: str  # cuda:3 or cpu:0
    visible: str  # CUDA_VISIBLE_DEVICES of the process: one GPU or none

    def environment(self) -> dict[str, str]:
        """What its process is to be started with, above what this one was."""
        return {VISIBLE: self.visible, "BATCHMILL_DEVICE": self.kind, "BATCHMILL_DEVICE_NAME": self.name} | _order()

    @property
    def folder(self) -> str:
        """The name of its state directory."""
        return re.sub(r"[^\w.-]", "-", self.name)


def choose_devices(text: str, *, find_gpus: Callable[[], Sequence[str]] | None = None) -> list[Device]:
    """Read `all`, or a list such as `0,1`, `cuda:3` or `cpu,cpu`. GPUs are numbered among those that are visible.

    Raises BadParameter in one sentence.
    """
    find_gpus = visible_gpus if find_gpus is None else find_gpus
    if text.strip() == ALL:
        gpus = find_gpus()
        if not gpus:
            raise _refused("there is no GPU that torch sees")
        return [_gpu(gpu) for gpu in gpus]
    numbers = [_number(part.strip()) for part in text.split(",")]
    named = [number for number in numbers if number is not None]
    if len(set(named)) < len(named):
        raise _refused("a GPU is named twice")
    gpus = find_gpus() if named else []
    missing = [number for number in named if number >= len(gpus)]
    if missing:
        raise _refused(f"there is no GPU {missing[0]}: torch sees {len(gpus)}, counted from 0")
    cpus = itertools.count()
    return [_cpu(next(cpus)) if number is None else _gpu(gpus[number]) for number in numbers]


def visible_gpus(
    environment: Mapping[str, str] = os.environ, *, count: Callable[[], int] | None = None
) -> Sequence[str]:
    """Name the GPUs that torch sees as CUDA_VISIBLE_DEVICES does, by number or UUID, in torch's order."""
    number = _count_gpus() if count is None else count()
    visible = environment.get(VISIBLE)
    names = [str(index) for index in range(number)] if visible is None else visible.split(",")
    return [name.strip() for name in names[:number]]  # CUDA stops at the first name that it does not know


def _count_gpus() -> int:
    """Ask a process that ends with its answer."""
    asked = subprocess.run(
        [sys.executable, "-c", _COUNT], env=os.environ | _order(), capture_output=True, text=True, check=False
    )
    try:
        return int(asked.stdout)
    except ValueError:
        why = (asked.stderr.strip().splitlines() or [f"status {asked.returncode}"])[-1]
        raise _refused(f"torch cannot be asked for the GPUs: {why}") from None


def _order() -> dict[str, str]:
    """Number GPUs as nvidia-smi does, unless numbers were given that may be meant otherwise."""
    return {} if VISIBLE in os.environ or ORDER in os.environ else {ORDER: "PCI_BUS_ID"}


def _number(part: str) -> int | None:
    """Of a GPU its number, of a CPU none."""
    if part == CPU:
        return None
    found = _GPU.fullmatch(part)
    if found is None:
        raise _refused(f"{part!r} is no device; give all, or a list such as 0,1 or cpu,cpu")
    return int(found[1] or 0)


def _cpu(number: int) -> Device:
    return Device(CPU, f"{CPU}:{number}", "")


def _gpu(visible: str) -> Device:
    return Device("cuda", f"cuda:{visible}", visible)


def _refused(why: str) -> typer.BadParameter:
    return typer.BadParameter(why, param_hint="--devices")
