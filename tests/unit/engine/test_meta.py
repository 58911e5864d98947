"""Meta folders: the same weights written as Meta does, whole and sharded, load bit for bit as Hugging Face's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig

from tests.unit.engine.models import VOCAB_SIZE
from tests.unit.engine.parity import TINY, assert_scores, ragged_prompts, save_tiny
from worker.engine import Engine
from worker.engine.checkpoint import find_weight_files, load_state_dict
from worker.engine.families import load_spec
from worker.engine.loader import load_model
from worker.engine.meta import find_shards, merge_shards
from worker.engine.meta_config import parse_params
from worker.engine.spec import Llama3Rope
from worker.engine.types import EngineError
from worker.engine.weights import Weights, from_state_dict

WIDTH, HEADS, KV_HEADS = 48, 6, 2
PARAMS: dict[str, Any] = {
    "dim": WIDTH,
    "n_layers": 2,
    "n_heads": HEADS,
    "n_kv_heads": KV_HEADS,
    "vocab_size": VOCAB_SIZE + 1,  # even, to be split among shards
    "multiple_of": 16,
    "ffn_dim_multiplier": 1.3,
    "norm_eps": 1e-5,
    "rope_theta": 500000.0,
}
LAYER = {
    "attention.wq": ("self_attn.q_proj", 0),
    "attention.wk": ("self_attn.k_proj", 0),
    "attention.wv": ("self_attn.v_proj", 0),
    "attention.wo": ("self_attn.o_proj", 1),
    "feed_forward.w1": ("mlp.gate_proj", 0),
    "feed_forward.w2": ("mlp.down_proj", 1),
    "feed_forward.w3": ("mlp.up_proj", 0),
    "attention_norm": ("input_layernorm", None),
    "ffn_norm": ("post_attention_layernorm", None),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("hugging_face")
    changes = {"intermediate_size": 176, "num_hidden_layers": 2, "vocab_size": VOCAB_SIZE + 1, "rms_norm_eps": 1e-5}
    return folder, save_tiny(folder, LlamaConfig(**(TINY | changes), rope_parameters={"rope_theta": 500000.0}))


def interleave(matrix: Tensor, heads: int) -> Tensor:
    """Rows (i, i + D/2) of each head side by side."""
    out = torch.empty_like(matrix)
    size = len(matrix) // heads
    for row in range(len(matrix)):
        head, index = divmod(row, size)
        out[head * size + (2 * index if index < size // 2 else 2 * index - size + 1)] = matrix[row]
    return out


def meta_tensors(state: dict[str, Tensor], *, embedding_axis: int) -> dict[str, tuple[Tensor, int | None]]:
    """Meta's names, each with the axis along which it is split among shards."""
    tensors: dict[str, tuple[Tensor, int | None]] = {
        "tok_embeddings.weight": (state["model.embed_tokens.weight"], embedding_axis),
        "norm.weight": (state["model.norm.weight"], None),
        "output.weight": (state["lm_head.weight"], 0),
        "rope.freqs": (torch.ones(4), None),
    }
    for index in range(2):
        for ours, (theirs, axis) in LAYER.items():
            tensor = state[f"model.layers.{index}.{theirs}.weight"]
            heads = {"attention.wq": HEADS, "attention.wk": KV_HEADS}.get(ours)
            tensors[f"layers.{index}.{ours}.weight"] = (interleave(tensor, heads) if heads else tensor, axis)
    return tensors


def write_meta(folder: Path, state: dict[str, Tensor], *, num_shards: int = 1, embedding_axis: int = 0) -> None:
    tensors = meta_tensors(state, embedding_axis=embedding_axis)
    for shard in range(num_shards):
        parts = {
            name: (tensor if axis is None else tensor.chunk(num_shards, axis)[shard]).clone()
            for name, (tensor, axis) in tensors.items()
        }
        torch.save(parts, folder / f"consolidated.{shard:02d}.pth")
    (folder / "params.json").write_text(json.dumps(PARAMS))


def load_meta(folder: Path) -> Weights:
    spec, state = merge_shards(load_spec(folder), find_shards(folder))
    return from_state_dict(spec, state)


@pytest.mark.parametrize(("num_shards", "embedding_axis"), [(1, 0), (2, 0), (2, 1)])
def test_meta_weights_are_bit_identical(
    llama: tuple[Path, Any], tmp_path: Path, num_shards: int, embedding_axis: int
) -> None:
    state = load_state_dict(find_weight_files(llama[0]))
    write_meta(tmp_path, state, num_shards=num_shards, embedding_axis=embedding_axis)
    expected = from_state_dict(load_spec(llama[0]), state)
    found = load_meta(tmp_path)
    assert len(merge_shards(load_spec(tmp_path), find_shards(tmp_path))[1]) == len(state)
    assert all(a.equal(b) for a, b in zip(found.tensors(), expected.tensors(), strict=True))


def test_meta_folder_answers_as_hugging_face(llama: tuple[Path, Any], tmp_path: Path) -> None:
    write_meta(tmp_path, load_state_dict(find_weight_files(llama[0])), num_shards=2)
    model = load_model(tmp_path, device="cpu", dtype="auto")
    assert model.spec.context_length == 8192
    assert_scores(llama[1], model.weights, model.spec, ragged_prompts(4))


def test_absent_output_means_tied_and_minus_one_the_embeddings_rows(llama: tuple[Path, Any], tmp_path: Path) -> None:
    write_meta(tmp_path, load_state_dict(find_weight_files(llama[0])))
    shard = torch.load(tmp_path / "consolidated.00.pth")
    del shard["output.weight"]
    torch.save({name: tensor.bfloat16() for name, tensor in shard.items()}, tmp_path / "consolidated.00.pth")
    (tmp_path / "params.json").write_text(json.dumps(PARAMS | {"vocab_size": -1}))
    spec = load_model(tmp_path, device="cpu", dtype="auto").spec
    assert (spec.vocab_size, spec.tie_word_embeddings, spec.dtype) == (VOCAB_SIZE + 1, True, "bfloat16")


def test_params_of_the_series_are_known() -> None:
    llama2 = {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-05, "vocab_size": -1}
    spec = parse_params(llama2)
    assert (spec.vocab_size, spec.intermediate_size, spec.context_length, spec.num_kv_heads) == (32000, 11008, 4096, 32)
    assert (spec.rope_theta, spec.eos_token_ids) == (10000.0, (2,))
    llama3 = llama2 | {
        "n_kv_heads": 8,
        "vocab_size": 128256,
        "multiple_of": 1024,
        "ffn_dim_multiplier": 1.3,
        "rope_theta": 5e5,
    }
    spec = parse_params(llama3)
    assert (spec.intermediate_size, spec.context_length, spec.rope_scaling) == (14336, 8192, None)
    assert spec.eos_token_ids == (128001, 128008, 128009)
    spec = parse_params(llama3 | {"use_scaled_rope": True})
    assert (spec.context_length, spec.rope_scaling) == (131072, Llama3Rope(8.0, 1.0, 4.0, 8192))
    small = {"dim": 2048, "n_layers": 16, "ffn_dim_multiplier": 1.5, "multiple_of": 256, "use_scaled_rope": True}
    spec = parse_params(llama3 | small)
    assert (spec.intermediate_size, spec.rope_scaling) == (8192, Llama3Rope(32.0, 1.0, 4.0, 8192))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moe_args": {}}, "sets moe_args, which is not supported"),
        ({"dim": None}, "wrong kind"),
        ({"n_heads": 5}, "must be a multiple"),
        ({"n_heads": 10}, r"q_proj\.weight has shape \[48, 48\]"),
        ({"n_layers": 1}, r"no use for: model\.layers\.1"),
        ({"n_layers": 3}, r"lacks model\.layers\.2"),
        ({"multiple_of": 512}, r"gate_proj\.weight has shape \[176, 48\], its configuration asks for \[512, 48\]"),
        ({"dim": 32, "n_heads": 4}, "has shape"),
    ],
)
def test_params_that_cannot_work_are_named(
    llama: tuple[Path, Any], tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    write_meta(tmp_path, load_state_dict(find_weight_files(llama[0])))
    (tmp_path / "params.json").write_text(json.dumps(PARAMS | changes))
    with pytest.raises(EngineError, match=message):
        Engine.load(tmp_path)


def test_missing_params_key_is_named() -> None:
    with pytest.raises(EngineError, match=r"params\.json lacks norm_eps"):
        parse_params({name: value for name, value in PARAMS.items() if name != "norm_eps"})


def test_broken_shards_are_named(llama: tuple[Path, Any], tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text(json.dumps(PARAMS))
    with pytest.raises(EngineError, match="holds no weights"):
        Engine.load(tmp_path)
    write_meta(tmp_path, load_state_dict(find_weight_files(llama[0])), num_shards=2)
    shard = torch.load(tmp_path / "consolidated.01.pth")
    torch.save({name: shard[name] for name in shard if name != "norm.weight"}, tmp_path / "consolidated.01.pth")
    with pytest.raises(EngineError, match=r"the shards of the checkpoint differ: norm\.weight"):
        Engine.load(tmp_path)
    torch.save({"norm.weight": shard["norm.weight"]}, tmp_path / "consolidated.01.pth")
    torch.save({"norm.weight": shard["norm.weight"]}, tmp_path / "consolidated.00.pth")
    with pytest.raises(EngineError, match=r"lacks tok_embeddings\.weight"):
        Engine.load(tmp_path)
    (tmp_path / "consolidated.00.pth").unlink()
    with pytest.raises(EngineError, match=r"lacks consolidated\.00\.pth"):
        Engine.load(tmp_path)
