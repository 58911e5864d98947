"""A decoder's tensors: a checkpoint's, checked by name and shape and fused for this transformer, and back again.

A trainer starts from `init_weights(spec, generator)`, sets `requires_grad_()` on each of `weights.tensors()`, runs
`transformer.forward` and `transformer.logits`, and writes `save_weights(folder, spec, weights)` beside
`families.to_config(spec)` as config.json.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from worker.engine.layout import (
    Fields,
    Part,
    Pick,
    all_parts,
    cut,
    full_names,
    fused_shape,
    is_derived,
    layer_fields,
    layer_shapes,
    pick_all,
    top_fields,
)
from worker.engine.spec import Spec
from worker.engine.types import EngineError

_INIT_STD = 0.02  # GPT-2's and Llama's
_MATRICES = ("wqkv", "wo", "w_gate_up", "w_down")  # what `linear` multiplies by, beside the head
_LAST_MATRICES = ("wo", "w_down")  # those whose product is added to the residual stream


@dataclass(frozen=True, slots=True)
class Layer:
    """One block. The matrices are [out, in]; wqkv and w_gate_up hold several projections stacked along out."""

    attention_norm: Tensor  # [C]
    wqkv: Tensor  # [(H + 2 Hkv) * D, C]
    wo: Tensor  # [C, H * D]
    mlp_norm: Tensor  # [C]
    w_gate_up: Tensor  # [2 I, C]; [I, C] where the MLP has no gate
    w_down: Tensor  # [C, I]
    # What only some families have.
    attention_norm_bias: Tensor | None = None  # [C]
    bqkv: Tensor | None = None  # [(H + 2 Hkv) * D]
    q_norm: Tensor | None = None  # [D]
    k_norm: Tensor | None = None  # [D]
    bo: Tensor | None = None  # [C]
    mlp_norm_bias: Tensor | None = None  # [C]
    b_gate_up: Tensor | None = None  # [2 I] or [I]
    b_down: Tensor | None = None  # [C]

    def tensors(self) -> list[Tensor]:
        """All tensors of the block."""
        values = (getattr(self, field.name) for field in fields(self))
        return [value for value in values if value is not None]


@dataclass(frozen=True, slots=True)
class Weights:
    """All tensors of a decoder. With tied embeddings `head` is `embedding` itself, unless it was re-laid."""

    embedding: Tensor  # [V, C]
    layers: tuple[Layer, ...]
    norm: Tensor  # [C]
    head: Tensor  # [V, C]
    norm_bias: Tensor | None = None  # [C]
    position_embedding: Tensor | None = None  # [context, C]

    def tensors(self) -> list[Tensor]:
        """Every distinct tensor once, for an optimiser or a count."""
        head = [] if self.head is self.embedding else [self.head]
        rest = [tensor for tensor in (self.norm_bias, self.position_embedding) if tensor is not None]
        return [
            self.embedding,
            *(tensor for layer in self.layers for tensor in layer.tensors()),
            self.norm,
            *head,
            *rest,
        ]


def count_parameters(spec: Spec) -> int:
    """Numbers in the tensors of a Spec; a tied head counts once."""
    return sum(torch.Size(part.shape).numel() for part in all_parts(spec))


def init_weights(spec: Spec, generator: torch.Generator) -> Weights:
    """Draw random float32 weights to train: normal matrices, the two that end a block scaled down by depth."""
    out_std = _INIT_STD / (2 * spec.num_layers) ** 0.5  # each block adds twice to the residual stream

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        if len(shape) > 1:
            return torch.randn(shape, generator=generator) * (out_std if name in _LAST_MATRICES else _INIT_STD)
        is_gain = name.endswith("norm")
        return torch.ones(shape) if is_gain else torch.zeros(shape)

    tops = {name: fused_shape(parts) for name, parts in top_fields(spec).items()}
    embedding = draw("embedding", tops.pop("embedding"))
    layers = tuple(
        Layer(**{name: draw(name, shape) for name, shape in layer_shapes(spec).items()}) for _ in range(spec.num_layers)
    )
    rest = {name: draw(name, shape) for name, shape in tops.items()}
    return Weights(embedding, layers, **{"head": embedding, **rest})


def from_state_dict(
    spec: Spec,
    state: Mapping[str, Tensor],
    *,
    place: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    relay: Callable[[Tensor], Tensor] = lambda matrix: matrix,
    pick: Pick = pick_all,
) -> Weights:
    """Fuse tensors under a checkpoint's names. Raises EngineError naming missing, extra or misshaped ones.

    `state` is read tensor by tensor, so it may be backed by mapped files: `place` (to a device, to a dtype) is applied
    to each piece as it is read, `relay` to each fused matrix that `linear` multiplies by. `pick` chooses the rows that
    are read of each fused tensor. What is returned shares no memory with `state`.
    """
    state = full_names(spec, state)
    _check_names(spec, state)

    def read(name: str, parts: tuple[Part, ...]) -> Tensor:
        pieces = cut(parts, pick(name, fused_shape(parts)[0]))
        return torch.cat([place(_read(state, part)[rows]) for part, rows in pieces])

    def fuse(table: Fields) -> dict[str, Tensor]:
        return {name: read(name, parts) for name, parts in table.items()}

    def fuse_layer(index: int) -> Layer:
        fused = fuse(layer_fields(spec, index))
        return Layer(**{name: relay(tensor) if name in _MATRICES else tensor for name, tensor in fused.items()})

    top = fuse(top_fields(spec))
    layers = tuple(fuse_layer(index) for index in range(spec.num_layers))
    head = relay(top.pop("head", top["embedding"]))
    return Weights(layers=layers, head=head, **top)


def _read(state: Mapping[str, Tensor], part: Part) -> Tensor:
    tensor = state[part.name]
    if tuple(tensor.shape) != part.file_shape:
        found, expected = list(tensor.shape), list(part.file_shape)
        raise EngineError(f"the checkpoint's {part.name} has shape {found}, its configuration asks for {expected}")
    return tensor.T if part.transposed else tensor


def _check_names(spec: Spec, state: Mapping[str, Tensor]) -> None:
    expected = {part.name for part in all_parts(spec)}
    if missing := [part.name for part in all_parts(spec) if part.name not in state]:
        raise EngineError(f"the checkpoint lacks {_list_names(missing)}")
    if extra := [name for name in state if name not in expected and not is_derived(spec, name)]:
        raise EngineError(f"the checkpoint holds tensors this architecture has no use for: {_list_names(extra)}")


def _list_names(names: list[str], limit: int = 4) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def to_state_dict(spec: Spec, weights: Weights) -> dict[str, Tensor]:
    """Split the fused tensors again and name them as the checkpoint does; a tied head is left out."""
    pairs: list[tuple[Fields, Weights | Layer]] = [(top_fields(spec), weights)]
    pairs += [(layer_fields(spec, index), layer) for index, layer in enumerate(weights.layers)]
    state: dict[str, Tensor] = {}
    for table, holder in pairs:
        for field, parts in table.items():
            pieces = torch.split(getattr(holder, field).detach(), [part.shape[0] for part in parts])
            for part, piece in zip(parts, pieces, strict=True):
                state[part.name] = (piece.T if part.transposed else piece).contiguous()
    return state


def save_weights(folder: Path, spec: Spec, weights: Weights) -> None:
    """Write `model.safetensors` under the names of the family."""
    from safetensors.torch import save

    # Not by its save_file, which leaves a file that only its owner may read.
    (folder / "model.safetensors").write_bytes(save(to_state_dict(spec, weights), metadata={"format": "pt"}))
