"""What an engine would run on here, found out without loading a model's weights."""

from dataclasses import dataclass
from pathlib import Path

from worker.engine.families import load_spec
from worker.engine.fast_paths import choose_fast_paths
from worker.engine.loader import choose_device, choose_dtype, name_linear


@dataclass(frozen=True, slots=True)
class Probe:
    """As EngineInfo, as far as it is known beforehand."""

    dtype: str
    device: str
    fast_paths: dict[str, str]


def probe(folder: Path, *, device: str, dtype: str, kv_dtype: str = "auto", reproducible: bool = False) -> Probe:
    """Choose device, dtypes and fast paths as loading the folder would. Raises EngineError as loading does."""
    spec = load_spec(folder)
    chosen_device = choose_device(device)
    chosen_dtype = choose_dtype(dtype, spec=spec, device=chosen_device)
    paths = choose_fast_paths(spec, chosen_device, chosen_dtype, kv_dtype=kv_dtype, reproducible=reproducible)
    return Probe(
        dtype=str(chosen_dtype).removeprefix("torch."),
        device=str(chosen_device),
        fast_paths={"linear": name_linear(chosen_device, chosen_dtype), **paths.names},
    )
