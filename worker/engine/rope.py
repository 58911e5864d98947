"""Rotary positions: how fast each pair of a head's dimensions turns, and the table of cos and sin."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from worker.engine.spec import LinearRope, Llama3Rope, Spec, YarnRope

Rotation = tuple[Tensor, Tensor]  # cos and signed sin, each [N, 1, R]


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn each pair (i, i + R/2) of x [N, heads, D] by its position's angle; Hugging Face's half-split order.

    Dimensions beyond the first R, where only a part of a head is rotated, pass unchanged.
    """
    cos, sin = rotation
    size = cos.shape[-1]
    if size < x.shape[-1]:
        return torch.cat([rotate(x[..., :size], rotation), x[..., size:]], dim=-1)
    return torch.addcmul(x * cos, x.roll(size // 2, -1), sin)


def rotary(spec: Spec, positions: Tensor, dtype: torch.dtype) -> Rotation:
    """Look up cos and sin [N, 1, R] for positions [N]; the first half of sin is negated, as `rotate` wants it."""
    cos, sin = rotary_table(spec, positions.device, dtype)
    half_cos, half_sin = cos[positions], sin[positions]
    return torch.cat([half_cos, half_cos], -1)[:, None], torch.cat([-half_sin, half_sin], -1)[:, None]


@lru_cache(maxsize=4)
def rotary_table(spec: Spec, device: torch.device, dtype: torch.dtype) -> Rotation:
    """cos and sin [context, R/2] for every position, computed in float32 as Hugging Face does.

    A table and no computing per token: vectorised and scalar cosines differ in their last bit, so that a token's bits
    would depend on its place in the batch.
    """
    # Cached across callers, so it must be a normal tensor even when the first caller is inference.
    with torch.inference_mode(False), torch.no_grad():
        angles = torch.arange(spec.context_length, dtype=torch.float32)[:, None] * inverse_frequencies(spec)
        scale = spec.rope_scaling.attention_factor if isinstance(spec.rope_scaling, YarnRope) else 1.0
        return (angles.cos() * scale).to(device, dtype), (angles.sin() * scale).to(device, dtype)


def inverse_frequencies(spec: Spec) -> Tensor:
    """Radians per position of each of the R/2 pairs, float32."""
    frequencies = 1.0 / spec.rope_theta ** _exponents(spec)
    match spec.rope_scaling:
        case LinearRope(factor):
            return frequencies / factor
        case Llama3Rope() as rope:
            return _stretch(frequencies, rope)
        case YarnRope() as rope:
            return _blend(frequencies, rope, spec)
        case None:
            return frequencies


def _exponents(spec: Spec) -> Tensor:
    return torch.arange(0, spec.rotary_size, 2, dtype=torch.int64).float() / spec.rotary_size


def _stretch(frequencies: Tensor, rope: Llama3Rope) -> Tensor:
    """Slow rotations down by `factor`, keep fast ones, blend between (source: transformers' llama3 rope)."""
    turns = rope.original_context_length * frequencies / (2 * torch.pi)  # full turns within the original context
    span = rope.high_freq_factor - rope.low_freq_factor
    keep = ((turns - rope.low_freq_factor) / span).clamp(0, 1)
    return (1 - keep) * frequencies / rope.factor + keep * frequencies


def _blend(frequencies: Tensor, rope: YarnRope, spec: Spec) -> Tensor:
    """As `_stretch`, the blend being linear in the pair's number (source: transformers' yarn rope)."""
    low, high = (_pair_of_turns(turns, rope, spec) for turns in (rope.beta_fast, rope.beta_slow))
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, spec.rotary_size - 1)
    if low == high:
        high += 0.001  # a step, where there is no room for a ramp
    keep = 1 - ((torch.arange(len(frequencies), dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    return (1 - keep) * frequencies / rope.factor + keep * frequencies


def _pair_of_turns(turns: float, rope: YarnRope, spec: Spec) -> float:
    """Number the pair, in fractions, that makes so many full turns within the original context."""
    ratio = rope.original_context_length / (turns * 2 * math.pi)
    return spec.rotary_size * math.log(ratio) / (2 * math.log(spec.rope_theta))
