"""What an engine says of itself: what it is, and what it has done."""

from dataclasses import dataclass

from worker.engine.loader import Model


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine is; `fingerprint` changes with anything that may change a token."""

    name: str
    dtype: str
    device: str
    max_model_len: int
    rows: int
    vocab_size: int
    num_parameters: int
    fingerprint: str
    fast_paths: dict[str, str]


@dataclass(slots=True)
class Counters:
    """What an engine has done since it was loaded. Occupancy is row_steps / (steps * rows)."""

    steps: int = 0
    row_steps: int = 0
    prompt_tokens: int = 0
    shared_tokens: int = 0  # of the prompt tokens, those taken from a beginning computed before
    prefix_hits: int = 0  # prompts that took some
    output_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0  # sampling included
    sampling_seconds: float = 0.0


def describe(model: Model, *, max_model_len: int, rows: int, fast_paths: dict[str, str]) -> EngineInfo:
    """Say what an engine of this model is."""
    bits = [fast_paths[part].partition(",")[0] for part in ("attention", "products", "cache") if part in fast_paths]
    return EngineInfo(
        name=model.name,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        max_model_len=max_model_len,
        rows=rows,
        vocab_size=model.spec.vocab_size,
        num_parameters=model.num_parameters,
        fingerprint="-".join([model.fingerprint, *bits]),  # another way to compute a part has other bits
        fast_paths=model.fast_paths | fast_paths,
    )
