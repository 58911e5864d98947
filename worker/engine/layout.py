"""What a checkpoint calls its tensors, and how they make up the fused ones of this transformer. Knows no files."""

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass

from torch import Tensor

from worker.engine.spec import Spec

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of the checkpoint that is one piece, along the first axis, of a tensor here."""

    name: str
    shape: Shape  # as used here, [out, in]
    transposed: bool = False  # the file holds [in, out]: GPT-2's Conv1D

    @property
    def file_shape(self) -> Shape:
        """Shape in the checkpoint."""
        return self.shape[::-1] if self.transposed else self.shape


# Field of Weights or Layer -> the pieces it is stacked of, in order.
Fields = Mapping[str, tuple[Part, ...]]


def top_fields(spec: Spec) -> Fields:
    """Pieces of the tensors outside the layers. A tied head has none."""
    if spec.family == "gpt2":
        return _gpt2_top(spec)
    table = (spec.vocab_size, spec.hidden_size)
    fields = {
        "embedding": (Part("model.embed_tokens.weight", table),),
        "norm": (Part("model.norm.weight", table[1:]),),
    }
    return fields if spec.tie_word_embeddings else fields | {"head": (Part("lm_head.weight", table),)}


def layer_fields(spec: Spec, index: int) -> Fields:
    """Pieces of the tensors of layer `index`."""
    if spec.family == "gpt2":
        return _gpt2_layer(spec, f"transformer.h.{index}.")
    prefix = f"model.layers.{index}."
    return _attention_fields(spec, prefix) | _mlp_fields(spec, prefix)


def layer_shapes(spec: Spec) -> dict[str, Shape]:
    """Shapes of the fused tensors of any layer."""
    return {name: fused_shape(parts) for name, parts in layer_fields(spec, 0).items()}


def fused_shape(parts: tuple[Part, ...]) -> Shape:
    """Shape of pieces stacked along the first axis."""
    return (sum(part.shape[0] for part in parts), *parts[0].shape[1:])


# (field, its height) -> the rows wanted of it, in order: stretches of the first axis.
Pick = Callable[[str, int], Items[range]]


def pick_all(field: str, height: int) -> Items[range]:
    """Want every row of a field."""
    return [range(height)]


def cut(parts: tuple[Part, ...], wanted: Items[range]) -> Iterator[tuple[Part, slice]]:
    """Find the wanted rows of stacked pieces: each stretch in order, piece by piece, and the rows within the piece."""
    for stretch in wanted:
        above = 0
        for part in parts:
            height = part.shape[0]
            first, end = max(stretch.start - above, 0), min(stretch.stop - above, height)
            if first < end:
                yield part, slice(first, end)
            above += height


def all_parts(spec: Spec) -> list[Part]:
    """Every tensor that a checkpoint of this Spec must hold."""
    tables = [top_fields(spec), *(layer_fields(spec, index) for index in range(spec.num_layers))]
    return [part for table in tables for parts in table.values() for part in parts]


def full_names(spec: Spec, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Give tensors their full names: GPT-2's own files on the hub leave the first part of each out."""
    if spec.family != "gpt2" or "wte.weight" not in state:
        return state
    return {name if name == "lm_head.weight" else f"transformer.{name}": state[name] for name in state}


def is_derived(spec: Spec, name: str) -> bool:
    """Say whether a tensor follows from the rest: rotary tables and causal masks of old, a copy of the tied head."""
    if spec.family == "gpt2" and name.endswith((".attn.bias", ".attn.masked_bias")):
        return True
    return name.endswith("rotary_emb.inv_freq") or (spec.tie_word_embeddings and name == "lm_head.weight")


def _attention_fields(spec: Spec, prefix: str) -> dict[str, tuple[Part, ...]]:
    width, attention = spec.hidden_size, f"{prefix}self_attn."
    if spec.family == "phi3":
        qkv = {"qkv_proj": spec.qkv_size}
    else:
        qkv = {"q_proj": spec.q_size, "k_proj": spec.kv_size, "v_proj": spec.kv_size}
    fields = {
        "attention_norm": (Part(f"{prefix}input_layernorm.weight", (width,)),),
        "wqkv": tuple(Part(f"{attention}{name}.weight", (size, width)) for name, size in qkv.items()),
        "wo": (Part(f"{attention}o_proj.weight", (width, spec.q_size)),),
    }
    if spec.qkv_bias:
        fields["bqkv"] = tuple(Part(f"{attention}{name}.bias", (size,)) for name, size in qkv.items())
    if spec.output_bias:
        fields["bo"] = (Part(f"{attention}o_proj.bias", (width,)),)
    if spec.qk_norm:
        fields |= {name: (Part(f"{attention}{name}.weight", (spec.head_dim,)),) for name in ("q_norm", "k_norm")}
    return fields


def _mlp_fields(spec: Spec, prefix: str) -> dict[str, tuple[Part, ...]]:
    width, inner, mlp = spec.hidden_size, spec.intermediate_size, f"{prefix}mlp."
    ups = {"gate_up_proj": 2 * inner} if spec.family == "phi3" else {"gate_proj": inner, "up_proj": inner}
    fields = {
        "mlp_norm": (Part(f"{prefix}post_attention_layernorm.weight", (width,)),),
        "w_gate_up": tuple(Part(f"{mlp}{name}.weight", (size, width)) for name, size in ups.items()),
        "w_down": (Part(f"{mlp}down_proj.weight", (width, inner)),),
    }
    if spec.mlp_bias:
        fields["b_gate_up"] = tuple(Part(f"{mlp}{name}.bias", (size,)) for name, size in ups.items())
        fields["b_down"] = (Part(f"{mlp}down_proj.bias", (width,)),)
    return fields


def _gpt2_top(spec: Spec) -> Fields:
    table = (spec.vocab_size, spec.hidden_size)
    fields = {
        "embedding": (Part("transformer.wte.weight", table),),
        "position_embedding": (Part("transformer.wpe.weight", (spec.context_length, spec.hidden_size)),),
        "norm": (Part("transformer.ln_f.weight", table[1:]),),
        "norm_bias": (Part("transformer.ln_f.bias", table[1:]),),
    }
    return fields if spec.tie_word_embeddings else fields | {"head": (Part("lm_head.weight", table),)}


def _gpt2_layer(spec: Spec, prefix: str) -> Fields:
    width, inner = spec.hidden_size, spec.intermediate_size
    norms = {"attention_norm": "ln_1", "mlp_norm": "ln_2"}
    matrices: dict[tuple[str, str], tuple[str, Shape]] = {
        ("wqkv", "bqkv"): ("attn.c_attn", (spec.qkv_size, width)),
        ("wo", "bo"): ("attn.c_proj", (width, width)),
        ("w_gate_up", "b_gate_up"): ("mlp.c_fc", (inner, width)),
        ("w_down", "b_down"): ("mlp.c_proj", (width, inner)),
    }
    fields: dict[str, tuple[Part, ...]] = {}
    for field, name in norms.items():
        fields[field] = (Part(f"{prefix}{name}.weight", (width,)),)
        fields[f"{field}_bias"] = (Part(f"{prefix}{name}.bias", (width,)),)
    for (matrix, bias), (name, shape) in matrices.items():
        fields[matrix] = (Part(f"{prefix}{name}.weight", shape, transposed=True),)
        fields[bias] = (Part(f"{prefix}{name}.bias", shape[:1]),)
    return fields
