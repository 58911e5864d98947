"""A checkpoint's tensors: files -> checked by name and shape -> fused for this transformer, and back again.

A trainer starts from `init_weights(spec, generator)`, sets `requires_grad_()` on each of `weights.tensors()`, runs
`transformer.forward` and `transformer.logits`, and writes `save_weights(folder, spec, weights)` beside
`spec.to_config(spec)` as config.json.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from worker.engine.spec import Spec
from worker.engine.types import EngineError

_INIT_STD = 0.02  # GPT-2's and Llama's


@dataclass(frozen=True, slots=True)
class Layer:
    """One block. The matrices are [out, in]; wqkv and w_gate_up hold several projections stacked along out."""

    attention_norm: Tensor  # [C]
    wqkv: Tensor  # [(H + 2 Hkv) * D, C]
    wo: Tensor  # [C, H * D]
    mlp_norm: Tensor  # [C]
    w_gate_up: Tensor  # [2 I, C]
    w_down: Tensor  # [C, I]

    def tensors(self) -> list[Tensor]:
        """All tensors of the block."""
        return [self.attention_norm, self.wqkv, self.wo, self.mlp_norm, self.w_gate_up, self.w_down]


@dataclass(frozen=True, slots=True)
class Weights:
    """All tensors of a decoder. With tied embeddings `head` is `embedding` itself."""

    embedding: Tensor  # [V, C]
    layers: tuple[Layer, ...]
    norm: Tensor  # [C]
    head: Tensor  # [V, C]

    def tensors(self) -> list[Tensor]:
        """Every distinct tensor once, for an optimiser or a count."""
        head = [] if self.head is self.embedding else [self.head]
        return [self.embedding, *(tensor for layer in self.layers for tensor in layer.tensors()), self.norm, *head]


def map_matrices(weights: Weights, change: Callable[[Tensor], Tensor]) -> Weights:
    """Replace every matrix that `linear` multiplies by, leaving norms and the embedding look-up alone."""
    layers = tuple(
        replace(
            layer,
            wqkv=change(layer.wqkv),
            wo=change(layer.wo),
            w_gate_up=change(layer.w_gate_up),
            w_down=change(layer.w_down),
        )
        for layer in weights.layers
    )
    return replace(weights, layers=layers, head=change(weights.head))


def init_weights(spec: Spec, generator: torch.Generator) -> Weights:
    """Draw random float32 weights to train: normal matrices, the two that end a block scaled down by depth."""

    def draw(shape: tuple[int, ...], std: float = _INIT_STD) -> Tensor:
        return torch.randn(shape, generator=generator) * std

    out_std = _INIT_STD / (2 * spec.num_layers) ** 0.5  # each block adds twice to the residual stream
    width = spec.hidden_size
    embedding = draw((spec.vocab_size, width))
    layers = tuple(
        Layer(
            attention_norm=torch.ones(width),
            wqkv=draw((spec.qkv_size, width)),
            wo=draw((width, spec.num_heads * spec.head_dim), out_std),
            mlp_norm=torch.ones(width),
            w_gate_up=draw((2 * spec.intermediate_size, width)),
            w_down=draw((width, spec.intermediate_size), out_std),
        )
        for _ in range(spec.num_layers)
    )
    head = embedding if spec.tie_word_embeddings else draw((spec.vocab_size, width))
    return Weights(embedding, layers, torch.ones(width), head)


def from_state_dict(spec: Spec, state: Mapping[str, Tensor]) -> Weights:
    """Fuse tensors under Hugging Face names. Raises EngineError naming missing, extra or misshaped ones."""
    tensors = dict(state)
    _check_tensors(spec, tensors)
    embedding = tensors.pop("model.embed_tokens.weight")
    layers = tuple(_fuse_layer(tensors, f"model.layers.{index}.") for index in range(spec.num_layers))
    head = embedding if spec.tie_word_embeddings else tensors["lm_head.weight"]
    return Weights(embedding, layers, tensors["model.norm.weight"], head)


def _fuse_layer(tensors: dict[str, Tensor], prefix: str) -> Layer:
    """Take one block's tensors out of the dict, so that their memory goes as the fused copies appear."""

    def take(*names: str) -> Tensor:
        parts = [tensors.pop(f"{prefix}{name}.weight") for name in names]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    return Layer(
        attention_norm=take("input_layernorm"),
        wqkv=take("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        wo=take("self_attn.o_proj"),
        mlp_norm=take("post_attention_layernorm"),
        w_gate_up=take("mlp.gate_proj", "mlp.up_proj"),
        w_down=take("mlp.down_proj"),
    )


def to_state_dict(spec: Spec, weights: Weights) -> dict[str, Tensor]:
    """Split the fused tensors again and name them as Hugging Face does; a tied head is left out."""
    state = {"model.embed_tokens.weight": weights.embedding, "model.norm.weight": weights.norm}
    if not spec.tie_word_embeddings:
        state["lm_head.weight"] = weights.head
    kv_size = spec.num_kv_heads * spec.head_dim
    for index, layer in enumerate(weights.layers):
        q, k, v = torch.split(layer.wqkv, [spec.num_heads * spec.head_dim, kv_size, kv_size])
        gate, up = layer.w_gate_up.chunk(2)
        parts = {
            "input_layernorm": layer.attention_norm,
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.o_proj": layer.wo,
            "post_attention_layernorm": layer.mlp_norm,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": layer.w_down,
        }
        state |= {f"model.layers.{index}.{name}.weight": tensor for name, tensor in parts.items()}
    return {name: tensor.detach().contiguous() for name, tensor in state.items()}


def save_weights(folder: Path, spec: Spec, weights: Weights) -> None:
    """Write `model.safetensors` under Hugging Face names."""
    from safetensors.torch import save

    # Not by its save_file, which leaves a file that only its owner may read.
    (folder / "model.safetensors").write_bytes(save(to_state_dict(spec, weights), metadata={"format": "pt"}))


def expected_shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor a checkpoint of this Spec must hold."""
    width, inner = spec.hidden_size, spec.intermediate_size
    q_size, kv_size = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (spec.vocab_size, width)}
    shapes["model.norm.weight"] = (width,)
    if not spec.tie_word_embeddings:
        shapes["lm_head.weight"] = (spec.vocab_size, width)
    block = {
        "input_layernorm": (width,),
        "self_attn.q_proj": (q_size, width),
        "self_attn.k_proj": (kv_size, width),
        "self_attn.v_proj": (kv_size, width),
        "self_attn.o_proj": (width, q_size),
        "post_attention_layernorm": (width,),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    for index in range(spec.num_layers):
        shapes |= {f"model.layers.{index}.{name}.weight": shape for name, shape in block.items()}
    return shapes


def _check_tensors(spec: Spec, tensors: Mapping[str, Tensor]) -> None:
    expected = expected_shapes(spec)
    if missing := [name for name in expected if name not in tensors]:
        raise EngineError(f"the checkpoint lacks {_list_names(missing)}")
    if extra := [name for name in tensors if name not in expected and not _is_derived(spec, name)]:
        raise EngineError(f"the checkpoint holds tensors this architecture has no use for: {_list_names(extra)}")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            found = list(tensors[name].shape)
            raise EngineError(f"the checkpoint's {name} has shape {found}, config.json asks for {list(shape)}")


def _is_derived(spec: Spec, name: str) -> bool:
    """Old checkpoints carry rotary tables, and some a copy of the tied head: both follow from the rest."""
    return name.endswith("rotary_emb.inv_freq") or (spec.tie_word_embeddings and name == "lm_head.weight")


def _list_names(names: list[str], limit: int = 4) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
