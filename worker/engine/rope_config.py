"""Rotary settings of a config.json, read into a Spec's fields and written back."""

import math
from collections.abc import Mapping
from typing import Any

from worker.engine.spec import LinearRope, Llama3Rope, RopeScaling, YarnRope
from worker.engine.types import EngineError

Config = Mapping[str, Any]


def rope_fields(config: Config, *, default_theta: float, head_dim: int) -> dict[str, Any]:
    """Read `rope_theta`, `rope_scaling` and `rotary_size` of a Spec, in the spelling of transformers 4 or 5."""
    rope = {"partial_rotary_factor": config.get("partial_rotary_factor")}
    rope |= config.get("rope_scaling") or config.get("rope_parameters") or {}
    share = rope["partial_rotary_factor"]
    return {
        "rope_theta": float(rope.get("rope_theta") or config.get("rope_theta") or default_theta),
        "rope_scaling": _rope_scaling(config, rope),
        "rotary_size": int(head_dim * float(1 if share is None else share)),
    }


def _rope_scaling(config: Config, rope: Config) -> RopeScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    match kind:
        # Dynamic NTK changes nothing up to max_position_embeddings, and no sequence here grows longer than that.
        case "default" | "dynamic":
            return None
        case "linear":
            return LinearRope(float(rope["factor"]))
        case "llama3":
            return Llama3Rope(
                factor=float(rope["factor"]),
                low_freq_factor=float(rope["low_freq_factor"]),
                high_freq_factor=float(rope["high_freq_factor"]),
                original_context_length=_original_length(config, rope),
            )
        case "yarn":
            return _yarn(config, rope)
    raise EngineError(f"rope scaling {kind!r} is not supported; default, linear, dynamic, llama3 and yarn are")


def _original_length(config: Config, rope: Config) -> int:
    """The length of training before it was stretched; the outer spelling wins, as in transformers."""
    names = "original_max_position_embeddings"
    return int(config.get(names) or rope.get(names) or config["max_position_embeddings"])


def _yarn(config: Config, rope: Config) -> YarnRope:
    original = _original_length(config, rope)
    factor = float(rope.get("factor") or int(config["max_position_embeddings"]) / original)
    attention = rope.get("attention_factor")
    return YarnRope(
        factor=factor,
        original_context_length=original,
        attention_factor=_yarn_attention(factor, rope) if attention is None else float(attention),
        beta_fast=float(rope.get("beta_fast") or 32),
        beta_slow=float(rope.get("beta_slow") or 1),
        truncate=bool(rope.get("truncate", True)),
    )


def _yarn_attention(factor: float, rope: Config) -> float:
    """What cos and sin are scaled by: 0.1 ln(factor) + 1, or DeepSeek's ratio of two such terms."""

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    above, below = rope.get("mscale"), rope.get("mscale_all_dim")
    return scale(float(above)) / scale(float(below)) if above and below else scale(1.0)


def scaling_to_config(rope: RopeScaling | None) -> dict[str, Any]:
    """Write `rope_parameters` but for the base."""
    match rope:
        case None:
            return {"rope_type": "default"}
        case LinearRope(factor):
            return {"rope_type": "linear", "factor": factor}
        case Llama3Rope():
            return {
                "rope_type": "llama3",
                "factor": rope.factor,
                "low_freq_factor": rope.low_freq_factor,
                "high_freq_factor": rope.high_freq_factor,
                "original_max_position_embeddings": rope.original_context_length,
            }
        case YarnRope():
            return {
                "rope_type": "yarn",
                "factor": rope.factor,
                "original_max_position_embeddings": rope.original_context_length,
                "attention_factor": rope.attention_factor,
                "beta_fast": rope.beta_fast,
                "beta_slow": rope.beta_slow,
                "truncate": rope.truncate,
            }
