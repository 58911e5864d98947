"""The files of a checkpoint: which there are, their tensors by name, their fingerprint. Knows nothing of shapes."""

import hashlib
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from worker.engine.spec import read_json
from worker.engine.types import EngineError

_SAMPLE_BYTES = 64 * 1024
_NUM_SAMPLES = 64  # per file: 4 MiB read however large the checkpoint is


def find_weight_files(path: Path) -> list[Path]:
    """List the weight files: the given file, else safetensors (one or by index), else the one .pt or .pth."""
    if path.is_file():
        return [path]
    index = path / "model.safetensors.index.json"
    if (path / "model.safetensors").is_file():
        return [path / "model.safetensors"]
    if index.is_file():
        return _indexed_files(index)
    found = sorted([*path.glob("*.pt"), *path.glob("*.pth")])
    if len(found) != 1:
        why = "several .pt or .pth files; name one of them" if found else "no weights (model.safetensors, .pt or .pth)"
        raise EngineError(f"{path} holds {why}")
    return found


def _indexed_files(index: Path) -> list[Path]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise EngineError(f"{index} holds no weight_map")
    files = [index.parent / name for name in sorted(set(names.values()))]
    for file in files:
        if file.parent != index.parent or not file.is_file():
            raise EngineError(f"{index} names {file.name}, which is not in the folder")
    return files


def load_state_dict(files: list[Path]) -> dict[str, Tensor]:
    """Map all tensors of the files, read from disk as they are used. Raises EngineError for an unreadable file."""
    state: dict[str, Tensor] = {}
    for file in files:
        state |= _load_safetensors(file) if file.suffix == ".safetensors" else _load_torch(file)
    return state


def _load_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(str(file)))
    except (OSError, SafetensorError, ValueError) as error:
        raise EngineError(f"{file} is not a readable safetensors file: {error}") from error


def _load_torch(file: Path) -> dict[str, Tensor]:
    """Read a state dict, bare or under the key "model". Tensors only: no code in the file is ever run."""
    try:
        # Only the zip format, torch.save's since 1.6, can be mapped.
        value = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # torch.load raises a dozen types for a broken or foreign file
        reason = str(error).partition("\n")[0]
        raise EngineError(f"{file} is not a readable state dict of tensors: {reason}") from error
    state = value.get("model", value) if isinstance(value, dict) else None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise EngineError(f"{file} does not hold a state dict (tensors by name)")
    return state


def hash_files(files: list[Path]) -> str:
    """Fingerprint the files by size and evenly spaced samples, so that a large checkpoint costs no full read."""
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.suffix}:{size};".encode())
        stride = max(size // _NUM_SAMPLES, _SAMPLE_BYTES)
        with file.open("rb") as stream:
            for offset in range(0, size, stride):
                stream.seek(offset)
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]
