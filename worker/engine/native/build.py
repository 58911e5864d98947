"""C++ source to a loaded library, by the machine's own compiler; kept for the next start."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

COMPILERS = ("g++", "c++", "clang++")
ELEMENT_BITS = {torch.float32: 32, torch.bfloat16: 16}
SOURCES = Path(__file__).parent
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
_LINK_FLAGS = ("-fopenmp", "-shared", "-fPIC")  # torch has loaded an OpenMP library by this name: it is shared with it
_COMPILE_SECONDS = 120


class NativeError(Exception):
    """Compiled code cannot be had here; the message says why."""


def load_library(source: str, macros: Mapping[str, int], folder: Path | None = None) -> ctypes.CDLL:
    """Compile one of the sources here, or find it compiled in the folder (default: ~/.cache/batchmill), and load it.

    Raises NativeError.
    """
    compiler = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        raise NativeError(f"no C++ compiler ({', '.join(COMPILERS)}) on PATH")
    try:
        return ctypes.CDLL(str(_compiled(compiler, source, macros, folder or Path.home() / ".cache" / "batchmill")))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise NativeError(f"{source} does not compile here: {_last_line(error)}") from error


def _compiled(compiler: str, source: str, macros: Mapping[str, int], folder: Path) -> Path:
    """Give the library's path, compiling it unless it is there. Only this user may write to the folder."""
    defines = [f"-D{name}={value}" for name, value in macros.items()]
    command = [compiler, *_FLAGS, *defines, *_LINK_FLAGS, str(SOURCES / source)]
    texts = [file.read_text() for file in (SOURCES / source, *sorted(SOURCES.glob("*.h")))]
    identity = "\n".join([*command, _version(compiler), _processor(), *texts])
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022:
        raise NativeError(f"others may write to {folder}: nothing is loaded from there")
    library = folder / f"{Path(source).stem}-{hashlib.sha256(identity.encode()).hexdigest()[:24]}.so"
    if not library.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / library.name
            _run([*command, "-o", str(made)])
            made.replace(library)  # at once, so that another process never loads half a file
    return library


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_COMPILE_SECONDS).stdout


def _version(compiler: str) -> str:
    return _run([compiler, "--version"])


def _processor() -> str:
    """What -march=native goes by: a home folder may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    names = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(names)}))


def _last_line(error: Exception) -> str:
    text = str(getattr(error, "stderr", None) or error).strip()
    return text.splitlines()[-1][:200] if text else type(error).__name__
