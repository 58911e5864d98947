"""From a model folder to a model ready to run: device, dtype, weights in their fast layout, what to say of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from worker.engine.checkpoint import find_weight_files, hash_files, load_state_dict
from worker.engine.families import load_spec
from worker.engine.folders import HUGGING_FACE_CONFIG, META_CONFIG, find_folder, is_meta_folder
from worker.engine.linear import packing_works, relay
from worker.engine.meta import find_shards, merge_shards
from worker.engine.parallel.sharding import WHOLE, Share, check_split, local_spec, pick_share, stored_spec
from worker.engine.spec import DTYPES, Spec
from worker.engine.types import EngineError
from worker.engine.weights import Weights, count_parameters, from_state_dict

# Raise it with any change that may alter a token or a logprob: it is part of every fingerprint.
ENGINE_VERSION = "2"
PACKED = "oneDNN packed"


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded decoder, or one rank's share of it: `spec` and `weights` are the share's, the rest is the model's."""

    name: str
    folder: Path
    spec: Spec
    weights: Weights
    device: torch.device
    dtype: torch.dtype
    num_parameters: int
    fingerprint: str
    fast_paths: dict[str, str]


def load_model(path: Path, *, device: str, dtype: str, share: Share = WHOLE) -> Model:
    """Load a checkpoint, or one rank's share of it and no more.

    Raises EngineError with one sentence for anything that is wrong with it or the settings.
    """
    folder = find_folder(path)
    spec, state, files = _open_checkpoint(path if path.is_file() else folder, folder)
    torch_device = choose_device(device)
    torch_dtype = choose_dtype(dtype, spec=spec, device=torch_device)
    check_split(spec, share.num_ranks)
    weights, fast_paths = _build_weights(spec, state, device=torch_device, dtype=torch_dtype, share=share)
    return Model(
        name=folder.resolve().name if path.exists() else path.name,
        folder=folder,
        spec=local_spec(spec, share),
        weights=weights,
        device=torch_device,
        dtype=torch_dtype,
        num_parameters=count_parameters(spec),
        fingerprint=_name_fingerprint(files, device=torch_device, dtype=torch_dtype, share=share),
        fast_paths=fast_paths,
    )


def _name_fingerprint(files: list[Path], *, device: torch.device, dtype: torch.dtype, share: Share) -> str:
    """Name what decides the bits of an answer.

    On a CPU a slice of a product has the bits it has in the whole, tests/unit/engine/parallel/test_products.py. What a
    GPU's library computes depends on sizes, and so on the number of ranks.
    """
    parts = [ENGINE_VERSION, device.type, str(dtype).removeprefix("torch."), hash_files(files)]
    return "-".join(parts if device.type == "cpu" or share == WHOLE else [*parts, f"{share.num_ranks}ranks"])


def _open_checkpoint(path: Path, folder: Path) -> tuple[Spec, Mapping[str, Tensor], list[Path]]:
    """Give a checkpoint's Spec, its tensors under Hugging Face's names, and the files these came from."""
    spec = load_spec(folder)
    if is_meta_folder(folder):
        shards = find_shards(folder)
        return *merge_shards(spec, shards), [folder / META_CONFIG, *shards]
    files = find_weight_files(path)
    return spec, load_state_dict(files), [folder / HUGGING_FACE_CONFIG, *files]


def choose_device(device: str) -> torch.device:
    """Turn "auto", "cpu", "cuda" or "cuda:1" into a device that is there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise EngineError(f"device {device!r} is not known; auto, cpu and cuda are")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise EngineError(f"device {device} is not there: torch sees {torch.cuda.device_count()} CUDA devices")
    return chosen


def choose_dtype(dtype: str, *, spec: Spec, device: torch.device) -> torch.dtype:
    """Turn a dtype's name into a dtype; "auto" is float32 on a CPU and the checkpoint's own on CUDA."""
    if dtype not in ("auto", *DTYPES):
        raise EngineError(f"dtype {dtype!r} is not known; auto, {', '.join(DTYPES)} are")
    name = dtype
    if dtype == "auto":
        name = "float32" if device.type == "cpu" else spec.dtype
    if name == "float16" and device.type == "cpu":
        raise EngineError("dtype float16 needs a CUDA device; use float32 or bfloat16 on a CPU")
    chosen: torch.dtype = getattr(torch, name)
    return chosen


def _build_weights(
    spec: Spec, state: Mapping[str, Tensor], *, device: torch.device, dtype: torch.dtype, share: Share
) -> tuple[Weights, dict[str, str]]:
    """Move tensors to where they are used, re-lay the matrices where that helps, and name what is in use.

    One layer at a time: a checkpoint lies in mapped files, so that only what is kept of it takes memory.
    """

    def place(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype)

    linear = name_linear(device, dtype)
    read = partial(from_state_dict, stored_spec(spec, share), state, place=place, pick=pick_share(spec, share))
    return read(relay=relay) if linear == PACKED else read(), {"linear": linear}


def name_linear(device: torch.device, dtype: torch.dtype) -> str:
    """Name the layout that matrices have on a device, or why they keep their own."""
    if device.type != "cpu":
        return "plain"
    return PACKED if packing_works(dtype) else "plain, since oneDNN's packed product is missing or wrong here"
