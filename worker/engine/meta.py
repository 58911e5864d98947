"""A Meta folder's weights under Hugging Face's names: shards merged, rotary pairs re-ordered as each is read."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from worker.engine.checkpoint import load_state_dict
from worker.engine.spec import Spec
from worker.engine.types import EngineError

_TOP_NAMES = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_EMBEDDING = "tok_embeddings.weight"
_SPLIT_BY_INPUT = ("wo.weight", "w2.weight")  # all other matrices are split among the shards by their outputs
_TABLES = ("rope.freqs",)  # follow from the rest


def find_shards(folder: Path) -> list[Path]:
    """List `consolidated.00.pth` and those that follow. Raises EngineError where one is missing."""
    files = sorted(folder.glob("consolidated.*.pth"))
    if not files:
        raise EngineError(f"{folder} holds no weights (consolidated.00.pth and so on)")
    for index, file in enumerate(files):
        if file.name != f"consolidated.{index:02d}.pth":
            raise EngineError(f"{folder} lacks consolidated.{index:02d}.pth")
    return files


def merge_shards(spec: Spec, files: list[Path]) -> tuple[Spec, Mapping[str, Tensor]]:
    """Give the tensors of all shards under Hugging Face's names, and the Spec with what only they tell."""
    state = MetaState(spec, [load_state_dict([file]) for file in files])
    if _TOP_NAMES[_EMBEDDING] not in state:
        raise EngineError(f"the checkpoint lacks {_EMBEDDING}")
    embedding = state[_TOP_NAMES[_EMBEDDING]]
    return replace(
        spec,
        vocab_size=embedding.shape[0],
        tie_word_embeddings="lm_head.weight" not in state,
        dtype=str(embedding.dtype).removeprefix("torch."),
    ), state


class MetaState(Mapping[str, Tensor]):
    """Tensors by Hugging Face's names, each put together from the shards only when it is asked for."""

    def __init__(self, spec: Spec, shards: list[Mapping[str, Tensor]]) -> None:
        self._spec, self._shards = spec, shards
        self._names = {_translate(name): name for name in shards[0] if name not in _TABLES}
        for shard in shards:
            if shard.keys() != shards[0].keys():
                odd = min(shard.keys() ^ shards[0].keys())
                raise EngineError(f"the shards of the checkpoint differ: {odd} is not in all of them")

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, key: str) -> Tensor:
        """Read one tensor whole."""
        name = self._names[key]
        merged = self._merge(name, [shard[name] for shard in self._shards])
        heads = {"wq": self._spec.num_heads, "wk": self._spec.num_kv_heads}.get(name.split(".")[-2])
        return merged if heads is None else split_halves(merged, heads)

    def _merge(self, name: str, parts: list[Tensor]) -> Tensor:
        if parts[0].dim() == 1:  # norms are repeated in every shard
            return parts[0]
        # Llama 2 split the embedding by width, Llama 3 splits it by token.
        by_width = name == _EMBEDDING and parts[0].shape[1] != self._spec.hidden_size
        return torch.cat(parts, dim=1 if by_width or name.endswith(_SPLIT_BY_INPUT) else 0)


def split_halves(matrix: Tensor, num_heads: int) -> Tensor:
    """Re-order each head's rows of matrix [H * D, C] from pairs (2i, 2i + 1) to pairs (i, i + D/2).

    Meta turns neighbouring rows together, Hugging Face the two halves (source: transformers' converter for Llama).
    """
    if matrix.shape[0] % (2 * num_heads):
        return matrix  # cannot be what it should; the check of shapes names it
    return matrix.reshape(num_heads, -1, 2, matrix.shape[1]).transpose(1, 2).reshape(matrix.shape)


def _translate(name: str) -> str:
    """Hugging Face's name for Meta's; unknown ones stay, to be named as extra."""
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    parts = name.split(".")  # layers.0.attention.wq.weight
    middle = _LAYER_NAMES.get(".".join(parts[2:-1])) if parts[0] == "layers" else None
    return name if middle is None else f"model.layers.{parts[1]}.{middle}.weight"
