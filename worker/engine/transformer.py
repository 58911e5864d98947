"""The decoder as pure functions of tensors: (tokens, positions, attend) -> hidden -> logits.

Inference and training run through these same functions. They know no cache, no batch and no padding: N is any list
of tokens end to end, and `attend` alone knows which of them see each other. What differs between families is a flag
of the Spec.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.engine.activation import gelu_tanh
from worker.engine.ops import TORCH_OPS, Ops
from worker.engine.rope import Rotation, rotary
from worker.engine.spec import Spec
from worker.engine.weights import Layer, Weights

# (layer index, q [N, H, D], k [N, Hkv, D], v [N, Hkv, D]) -> [N, H * D]; q and k carry their positions already.
# In the last layer q has M rows where `forward` was asked to keep M, and so has the result.
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]

# (one rank's columns [N, w] of an activation) -> those of all ranks, [N, R * w]. Where a model's matrices are split
# among processes by their outputs, each product needs its whole input back; in one process nothing is split.
Join = Callable[[Tensor], Tensor]

# (layer index, layer, heads [N, H + 2 Hkv, D]: queries, keys and values as projected, neither normalised nor rotated)
# -> [N, H * D], and in the last layer [M, H * D]. For whoever makes q, k and v in a way of its own.
Mix = Callable[[int, Layer, Tensor], Tensor]


def as_is(x: Tensor) -> Tensor:
    """Join nothing: the columns are all here."""
    return x


def forward(
    weights: Weights,
    spec: Spec,
    tokens: Tensor,
    positions: Tensor,
    attend: Attend,
    keep: Tensor | None = None,
    ops: Ops = TORCH_OPS,
) -> Tensor:
    """Run tokens [N] at logical positions [N] through all layers -> hidden [N, C], before the last norm.

    With `keep` [M], row numbers in any order, only these rows' hidden [M, C] is wanted: once the last layer's keys and
    values exist, the rest of that layer runs for them alone. There `attend` gets the q of these rows, in `keep`'s
    order, with the k and v of all N. In inference N and M are multiples of 16, see `linear`. `ops` is how
    products, norms, rotations and activations are computed.
    """
    return run_layers(weights, spec, tokens, positions, by_heads(spec, positions, attend, keep, ops), keep, ops)


def run_layers(
    weights: Weights,
    spec: Spec,
    tokens: Tensor,
    positions: Tensor,
    mix: Mix,
    keep: Tensor | None = None,
    ops: Ops = TORCH_OPS,
    join: Join = as_is,
) -> Tensor:
    """As `forward`, by what mixes the tokens from their heads on.

    With `join` the layers' matrices are one rank's rows of them, and the Spec counts that rank's heads.
    """
    x = F.embedding(tokens, weights.embedding)  # [N, C]
    if weights.position_embedding is not None:
        x = x + F.embedding(positions, weights.position_embedding)
    first = weights.layers[0]
    normed = normalise(spec, x, first.attention_norm, first.attention_norm_bias, ops)
    for index, layer in enumerate(weights.layers):
        qkv = ops.linear(normed, layer.wqkv, layer.bqkv)
        mixed = join(mix(index, layer, qkv.view(-1, spec.num_heads + 2 * spec.num_kv_heads, spec.head_dim)))
        if keep is not None and index == spec.num_layers - 1:
            x = x[keep]
        delta = join(ops.linear(mixed, layer.wo, layer.bo))
        x, normed = add_normalise(spec, x, delta, layer.mlp_norm, layer.mlp_norm_bias, ops)
        delta = feed_forward(layer, spec, normed, ops, join)
        if index < spec.num_layers - 1:
            below = weights.layers[index + 1]
            x, normed = add_normalise(spec, x, delta, below.attention_norm, below.attention_norm_bias, ops)
    return x + delta


def by_heads(spec: Spec, positions: Tensor, attend: Attend, keep: Tensor | None = None, ops: Ops = TORCH_OPS) -> Mix:
    """Mix tokens at positions [N] by attention over queries and keys that are normalised and rotated before it."""
    rotation: list[Rotation] = []  # of the positions; looked up once the dtype is seen

    def mix(index: int, layer: Layer, heads: Tensor) -> Tensor:
        if not rotation and any(spec.rotated):
            rotation.append(rotary(spec, positions, heads.dtype))
        q, k, v = split_heads(layer, spec, heads, rotation[0] if spec.rotated[index] else None, ops)
        if keep is not None and index == spec.num_layers - 1:
            # q is made for all rows and picked from: its part of the fused matrix cannot be multiplied by alone.
            q = q[keep]
        return attend(index, q, k, v)

    return mix


def logits(weights: Weights, spec: Spec, hidden: Tensor, ops: Ops = TORCH_OPS) -> Tensor:
    """Turn hidden [M, C] into raw next-token scores [M, V], float32."""
    return ops.linear(normalise(spec, hidden, weights.norm, weights.norm_bias, ops), weights.head).float()


def split_heads(
    layer: Layer, spec: Spec, heads: Tensor, rotation: Rotation | None, ops: Ops = TORCH_OPS
) -> tuple[Tensor, Tensor, Tensor]:
    """Make queries [N, H, D], keys [N, Hkv, D] (both normalised and rotated) and values [N, Hkv, D] of one layer."""
    num_qk = spec.num_heads + spec.num_kv_heads
    qk, v = heads[:, :num_qk], heads[:, num_qk:]
    if layer.q_norm is not None and layer.k_norm is not None:
        qk = _norm_heads(spec, qk, layer.q_norm, layer.k_norm, ops)
    if rotation is not None:
        qk = ops.rotate(qk, rotation)
    return qk[:, : spec.num_heads], qk[:, spec.num_heads :], v


def _norm_heads(spec: Spec, qk: Tensor, q_norm: Tensor, k_norm: Tensor, ops: Ops) -> Tensor:
    """Normalise each head of qk [N, H + Hkv, D], the queries by q_norm [D] and the keys by k_norm [D] (Qwen3)."""
    q, k = qk[:, : spec.num_heads], qk[:, spec.num_heads :]
    return torch.cat([ops.rms_norm(q, q_norm, spec.norm_eps), ops.rms_norm(k, k_norm, spec.norm_eps)], dim=1)


def feed_forward(layer: Layer, spec: Spec, normed: Tensor, ops: Ops = TORCH_OPS, join: Join = as_is) -> Tensor:
    """The MLP over normalised [N, C]: down(silu(gate) * up), or down(gelu(up)) in families without a gate."""
    inner = ops.linear(normed, layer.w_gate_up, layer.b_gate_up)
    bent = gelu_tanh(inner) if spec.mlp == "gelu" else ops.swiglu(inner)
    return join(ops.linear(join(bent), layer.w_down, layer.b_down))


def normalise(spec: Spec, x: Tensor, weight: Tensor, bias: Tensor | None, ops: Ops) -> Tensor:
    """The family's norm over each row of x [N, C]."""
    if spec.norm == "layer":
        return F.layer_norm(x, (x.shape[-1],), weight, bias, spec.norm_eps)
    return ops.rms_norm(x, weight, spec.norm_eps)


def add_normalise(
    spec: Spec, x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor | None, ops: Ops
) -> tuple[Tensor, Tensor]:
    """Add delta [N, C] to x [N, C] -> the sum and its norm."""
    if spec.norm == "layer":
        total = x + delta
        return total, normalise(spec, total, weight, bias, ops)
    return ops.add_norm(x, delta, weight, spec.norm_eps)
