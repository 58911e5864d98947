"""C++ source to a loaded library, by the machine's own compiler; kept for the next start."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    defines = [f"-D{name}={value}" for name, value in macros.items()]
    command = [compiler, *_FLAGS, *defines, *_LINK_FLAGS, str(SOURCES / source)]
    try:
        with _open_folder(folder) as opened:
            library = opened / f"{Path(source).stem}-{_identify(command, source)}.so"
            if not library.is_file():
                _compile(command, library)
            return ctypes.CDLL(str(library))
    except (OSError, RuntimeError, AttributeError, subprocess.SubprocessError) as error:
        raise NativeError(f"{source} does not compile here: {_last_line(error)}") from error


def default_folder() -> Path:
    """Where compiled libraries are kept for the next start."""
    return Path.home() / ".cache" / "batchmill"


@contextmanager
def _open_folder(folder: Path | None) -> Iterator[Path]:
    """Make a folder that only this user may write to; one for the time being where there is no such place at home."""
    try:
        chosen = folder or default_folder()
        chosen.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = chosen.stat()
    except (OSError, RuntimeError):  # no home at all is a RuntimeError
        with tempfile.TemporaryDirectory(prefix="batchmill-") as scratch:
            yield Path(scratch)  # a library stays loaded when its file is gone
        return
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise NativeError(f"others may write to {chosen}: nothing is loaded from there")
    yield chosen


def _identify(command: list[str], source: str) -> str:
    """Name what decides a library's code: the command, the compiler, the processor, the sources."""
    texts = [file.read_text() for file in (SOURCES / source, *sorted(SOURCES.glob("*.h")))]
    identity = "\n".join([*command, _run([command[0], "--version"]), _processor(), *texts])
    return hashlib.sha256(identity.encode()).hexdigest()[:24]


def _compile(command: list[str], library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        made = Path(scratch) / library.name
        _run([*command, "-o", str(made)])
        made.replace(library)  # at once, so that another process never loads half a file


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_COMPILE_SECONDS).stdout


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
