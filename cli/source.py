"""The input of a run and its fingerprint: what makes two invocations the same run."""

import hashlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from models.errors import ConfigurationError
from models.settings import NOOP, Settings

STDIN = "-"
BLOCK_BYTES = 1 << 20
SAMPLE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Source:
    """A file of prompts on disk and the digest of its bytes."""

    path: Path
    digest: str


def open_source(name: str, *, spool_folder: Path) -> Source:
    """Find the input; standard input is spooled to disk first, since a run may have to read it again.

    Raises ConfigurationError with what is wrong.
    """
    if name == STDIN:
        spool_folder.mkdir(parents=True, exist_ok=True)
        path = spool_folder / "stdin.partial"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        digest = _digest(path)
        return Source(path.replace(spool_folder / f"stdin-{digest[:16]}.jsonl"), digest)
    path = Path(name)
    if path.is_dir():
        raise ConfigurationError(f"{name} is a folder: give a JSONL file of prompts")
    try:
        return Source(path, _digest(path))
    except OSError as error:
        raise ConfigurationError(f"cannot read {name}: {error.strerror}") from error


def fingerprint(source: Source, settings: Settings, model_folder: Path | None) -> str:
    """The digest of all that the results follow from: the prompts, the model, the number format."""
    digest = hashlib.sha256()
    model = NOOP if model_folder is None else _model_digest(model_folder)
    for part in (source.digest, settings.model_name, settings.dtype, model):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def _model_digest(folder: Path) -> str:
    """Names and sizes of the checkpoint's files and the ends of each: telling, and quick for any size."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(SAMPLE_BYTES))
            file.seek(max(0, size - SAMPLE_BYTES))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
