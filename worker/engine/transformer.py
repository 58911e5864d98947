"""The decoder as pure functions of tensors: (tokens, positions, attend) -> hidden -> logits.

Inference and training run through these same functions. They know no cache, no batch and no padding: N is any list
of tokens end to end, and `attend` alone knows which of them see each other.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.engine.linear import linear
from worker.engine.spec import Llama3Rope, Spec
from worker.engine.weights import Layer, Weights

# (layer index, q [N, H, D], k [N, Hkv, D], v [N, Hkv, D]) -> [N, H * D]; q and k carry their positions already.
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def forward(weights: Weights, spec: Spec, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
    """Run tokens [N] at logical positions [N] through all layers -> hidden [N, C], before the last norm."""
    x = F.embedding(tokens, weights.embedding)  # [N, C]
    rotation = rotary(spec, positions, x.dtype)
    for index, layer in enumerate(weights.layers):
        q, k, v = project(layer, spec, x, rotation)
        x = x + linear(attend(index, q, k, v), layer.wo)
        x = x + feed_forward(layer, spec, x)
    return x


def logits(weights: Weights, spec: Spec, hidden: Tensor) -> Tensor:
    """Turn hidden [M, C] into raw next-token scores [M, V], float32."""
    return linear(rms_norm(hidden, weights.norm, spec.rms_norm_eps), weights.head).float()


def project(layer: Layer, spec: Spec, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Make queries [N, H, D], keys [N, Hkv, D] (both rotated) and values [N, Hkv, D] of one layer."""
    qkv = linear(rms_norm(x, layer.attention_norm, spec.rms_norm_eps), layer.wqkv)
    heads = qkv.view(-1, spec.num_heads + 2 * spec.num_kv_heads, spec.head_dim)
    num_rotated = spec.num_heads + spec.num_kv_heads
    qk = rotate(heads[:, :num_rotated], rotation)
    return qk[:, : spec.num_heads], qk[:, spec.num_heads :], heads[:, num_rotated:]


def feed_forward(layer: Layer, spec: Spec, x: Tensor) -> Tensor:
    """SwiGLU over x [N, C]: down(silu(gate) * up)."""
    gate_up = linear(rms_norm(x, layer.mlp_norm, spec.rms_norm_eps), layer.w_gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return linear(F.silu(gate) * up, layer.w_down)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each row of x [N, C] to unit mean square, in float32, then by weight [C]."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (i, i + D/2) of x [N, heads, D] by its position's angle; Hugging Face's half-split order."""
    cos, sin = rotation
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def rotary(spec: Spec, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Look up cos and sin [N, 1, D] for positions [N]; the first half of sin is negated, as `rotate` wants it."""
    cos, sin = _rotary_table(spec, positions.device, dtype)
    return cos[positions][:, None], sin[positions][:, None]


@lru_cache(maxsize=4)
def _rotary_table(spec: Spec, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and signed sin [context, D] for every position, computed in float32 as Hugging Face does."""
    # Cached across callers, so it must be a normal tensor even when the first caller is inference.
    with torch.inference_mode(False), torch.no_grad():
        angles = torch.arange(spec.context_length, dtype=torch.float32)[:, None] * inverse_frequencies(spec)
        cos = torch.cat([angles.cos(), angles.cos()], dim=-1)
        sin = torch.cat([-angles.sin(), angles.sin()], dim=-1)
        return cos.to(device, dtype), sin.to(device, dtype)


def inverse_frequencies(spec: Spec) -> Tensor:
    """Radians per position of each of the D/2 pairs, float32."""
    exponents = torch.arange(0, spec.head_dim, 2, dtype=torch.int64).float() / spec.head_dim
    frequencies = 1.0 / spec.rope_theta**exponents
    return frequencies if spec.rope_scaling is None else _stretch(frequencies, spec.rope_scaling)


def _stretch(frequencies: Tensor, rope: Llama3Rope) -> Tensor:
    """Slow rotations down by `factor`, keep fast ones, blend between (source: transformers' llama3 rope)."""
    turns = rope.original_context_length * frequencies / (2 * torch.pi)  # full turns within the original context
    span = rope.high_freq_factor - rope.low_freq_factor
    keep = ((turns - rope.low_freq_factor) / span).clamp(0, 1)
    return (1 - keep) * frequencies / rope.factor + keep * frequencies
