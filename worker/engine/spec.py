"""The shape of a decoder, parsed from a checkpoint's config.json. Knows no tensors and no files' layout beyond that."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.engine.types import EngineError

DTYPES = ("float32", "bfloat16", "float16")
ARCHITECTURES = ("llama",)
_DEFAULT_ROPE_THETA = 10000.0


@dataclass(frozen=True, slots=True)
class Llama3Rope:
    """Llama 3.1's stretching of slow rotations (`rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context_length: int


@dataclass(frozen=True, slots=True)
class Spec:
    """One Llama-like decoder: RMSNorm, rotary positions, grouped queries, SwiGLU. Hashable: tables are cached by it."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = _DEFAULT_ROPE_THETA
    rope_scaling: Llama3Rope | None = None
    tie_word_embeddings: bool = False
    dtype: str = "float32"  # the checkpoint's own
    eos_token_ids: tuple[int, ...] = ()

    @property
    def qkv_size(self) -> int:
        """Width of the fused projection: H query heads, then Hkv key heads, then Hkv value heads."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim


def load_spec(folder: Path) -> Spec:
    """Read `config.json`, and the stop tokens of `generation_config.json` where it names some."""
    config = read_json(folder / "config.json")
    generation_path = folder / "generation_config.json"
    generation = read_json(generation_path) if generation_path.is_file() else {}
    eos = generation.get("eos_token_id")
    return parse_config(config if eos is None else {**config, "eos_token_id": eos})


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises EngineError with one sentence."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise EngineError(f"{path} does not hold a JSON object")
    return value


def parse_config(config: Mapping[str, Any]) -> Spec:
    """Turn a Hugging Face config into a Spec. Raises EngineError for what is missing or not supported yet."""
    _refuse_unsupported(config)
    try:
        spec = _parse(config)
    except KeyError as error:
        raise EngineError(f"config.json lacks {error.args[0]}") from error
    except (TypeError, ValueError) as error:
        raise EngineError(f"config.json holds a value of the wrong kind: {error}") from error
    _check(spec)
    return spec


def _parse(config: Mapping[str, Any]) -> Spec:
    num_heads = int(config["num_attention_heads"])
    theta, scaling = _rope(config)
    return Spec(
        vocab_size=int(config["vocab_size"]),
        hidden_size=int(config["hidden_size"]),
        intermediate_size=int(config["intermediate_size"]),
        num_layers=int(config["num_hidden_layers"]),
        num_heads=num_heads,
        num_kv_heads=int(config.get("num_key_value_heads") or num_heads),
        head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // num_heads),
        context_length=int(config["max_position_embeddings"]),
        rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
        eos_token_ids=_token_ids(config.get("eos_token_id")),
    )


def _rope(config: Mapping[str, Any]) -> tuple[float, Llama3Rope | None]:
    """Read rotary settings in the spelling of transformers 4 (`rope_theta`, `rope_scaling`) or 5."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or _DEFAULT_ROPE_THETA)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise EngineError(f"rope scaling {kind!r} is not supported yet; default and llama3 are")
    scaling = Llama3Rope(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_context_length=int(rope["original_max_position_embeddings"]),
    )
    return theta, scaling


def _token_ids(value: int | list[int] | None) -> tuple[int, ...]:
    """`eos_token_id` is absent, one id or a list of ids."""
    values = [] if value is None else value if isinstance(value, list) else [value]
    return tuple(int(token_id) for token_id in values)


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        named = kind or ", ".join(config.get("architectures") or ["unnamed"])
        raise EngineError(f"architecture {named} is not supported yet; {', '.join(ARCHITECTURES)} is")
    off = {
        "attention_bias": (None, False),
        "mlp_bias": (None, False),
        "sliding_window": (None,),
        "quantization_config": (None,),
        "partial_rotary_factor": (None, 1, 1.0),
        "hidden_act": (None, "silu"),
    }
    for name, allowed in off.items():
        if config.get(name) not in allowed:
            raise EngineError(f"config.json sets {name} to {config[name]!r}, which is not supported yet")


def _check(spec: Spec) -> None:
    """Refuse shapes no tensor could have, before a reshape fails on them without a name."""
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads", "head_dim")
    for name in (*sizes, "context_length"):
        if getattr(spec, name) < 1:
            raise EngineError(f"config.json: {name} must be at least 1, not {getattr(spec, name)}")
    if spec.num_heads % spec.num_kv_heads:
        raise EngineError("config.json: num_attention_heads must be a multiple of num_key_value_heads")
    if spec.head_dim % 2:
        raise EngineError("config.json: head_dim must be even for rotary positions")
    if spec.dtype not in DTYPES:
        raise EngineError(f"config.json: dtype {spec.dtype} is not supported; {', '.join(DTYPES)} are")


def to_config(spec: Spec) -> dict[str, Any]:
    """Write a Spec back as a Hugging Face config that both `rope_theta` readers and newer ones understand."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": spec.rope_theta}
    if spec.rope_scaling is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": spec.rope_scaling.factor,
            "low_freq_factor": spec.rope_scaling.low_freq_factor,
            "high_freq_factor": spec.rope_scaling.high_freq_factor,
            "original_max_position_embeddings": spec.rope_scaling.original_context_length,
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "max_position_embeddings": spec.context_length,
        "rms_norm_eps": spec.rms_norm_eps,
        "rope_theta": spec.rope_theta,
        "rope_parameters": rope,
        "tie_word_embeddings": spec.tie_word_embeddings,
        "dtype": spec.dtype,
        "eos_token_id": list(spec.eos_token_ids) or None,
    }
