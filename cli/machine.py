"""What `batchmill doctor` looks at with torch: the device, the compiler, and what an engine would run on."""

import os
import shutil
from collections.abc import Callable, Iterator

import torch

from cli.finding import Finding
from cli.model import is_cached
from models.settings import NOOP, Settings
from worker.engine.folders import find_folder, is_hub_id
from worker.engine.native.build import COMPILERS, default_folder
from worker.engine.probe import probe
from worker.engine.types import EngineError
from worker.loading import describe_device


def _device(settings: Settings) -> Iterator[Finding]:
    if torch.cuda.is_available():
        yield Finding("device", "ok", f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    elif settings.device.startswith("cuda"):
        yield Finding("device", "wrong", f"BATCHMILL_DEVICE is {settings.device}, but torch sees no GPU")
    else:
        yield Finding("device", "ok", f"CPU, {os.cpu_count()} cores, torch {torch.__version__}")


def _compiler(settings: Settings) -> Iterator[Finding]:
    compiler = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if compiler is not None:
        yield Finding("compiler", "ok", compiler)
    else:
        wanted = ", ".join(COMPILERS)
        text = f"none on PATH ({wanted}): a CPU decodes at about half its rate and shares no prefixes without one"
        yield Finding("compiler", "note", text)


def _compiled(settings: Settings) -> Iterator[Finding]:
    """Where compiled code is kept: it is loaded into the process, so nobody else may be able to put some there."""
    folder = default_folder()
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    if there == folder and (folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022):
        text = f"others may write to {folder}, so nothing is loaded from it: make it yours, chmod 700"
        yield Finding("compiled code", "wrong", text)
    elif not os.access(there, os.W_OK):
        yield Finding("compiled code", "note", f"{folder} is not writable: each start may compile again, or do without")
    else:
        yield Finding("compiled code", "ok", f"kept in {folder}, which is private")


def _engine(settings: Settings) -> Iterator[Finding]:
    if settings.model == NOOP or (is_hub_id(settings.model_path) and not is_cached(settings.model)):
        return
    try:
        folder = find_folder(settings.model_path)
    except EngineError:  # the model's own check says so
        return
    try:
        found = probe(
            folder,
            device=settings.device,
            dtype=settings.dtype,
            kv_dtype=settings.kv_dtype,
            reproducible=settings.reproducible,
        )
    except EngineError as error:
        yield Finding("engine", "wrong", str(error))
        return
    text = f"{settings.rows} rows, {describe_device(settings, found.dtype, found.device, found.fast_paths)}"
    yield Finding("engine", "note" if "since" in text else "ok", text)


MACHINE_CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (_device, _compiler, _compiled, _engine)
