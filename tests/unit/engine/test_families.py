"""Every family against Hugging Face's own model of a random tiny checkpoint, and what is refused by its name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from tests.unit.engine.models import EOS, VOCAB_SIZE
from tests.unit.engine.parity import (
    TINY,
    assert_greedy,
    assert_scores,
    greedy_requests,
    masked_attention,
    ragged_prompts,
    save_tiny,
)
from worker.engine import Engine
from worker.engine.checkpoint import find_weight_files, load_state_dict
from worker.engine.families import load_spec
from worker.engine.transformer import forward
from worker.engine.weights import Weights, from_state_dict, init_weights, to_state_dict


def rope(kind: str, **settings: object) -> dict[str, object]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1000.0, **settings}}


LLAMA3 = rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=64)
YARN_ALL = rope(
    "yarn",
    factor=4.0,
    original_max_position_embeddings=64,
    mscale=0.7,
    mscale_all_dim=0.3,
    beta_fast=8,
    beta_slow=2,
    truncate=False,
)
GPT2: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "n_embd": 48,
    "n_layer": 3,
    "n_head": 6,
    "n_positions": 256,
    "bos_token_id": 1,
    "eos_token_id": EOS,
}


def family(config: type[PreTrainedConfig], **changes: object) -> Callable[[], PreTrainedConfig]:
    return lambda: config(**(TINY | changes))


FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama2": family(LlamaConfig, num_key_value_heads=6),
    "llama3": family(LlamaConfig, rope_parameters={"rope_theta": 5e5}),
    "llama3.1": family(LlamaConfig, **LLAMA3),
    "llama3.2": family(LlamaConfig, tie_word_embeddings=True, **LLAMA3),
    "tinyllama": family(LlamaConfig, num_key_value_heads=3),
    "yi": family(LlamaConfig, rms_norm_eps=1e-5, rope_parameters={"rope_theta": 5e6}),
    "smollm2": family(LlamaConfig, tie_word_embeddings=True, rope_parameters={"rope_theta": 1e5}),
    "llama-biased": family(LlamaConfig, attention_bias=True, mlp_bias=True),
    "llama-linear": family(LlamaConfig, **rope("linear", factor=4.0)),
    "llama-dynamic": family(LlamaConfig, **rope("dynamic", factor=4.0)),
    "llama-yarn": family(LlamaConfig, **YARN),
    "llama-yarn-mscale": family(LlamaConfig, **YARN_ALL),
    "llama-yarn-factor": family(LlamaConfig, **rope("yarn", factor=1.0, attention_factor=1.3)),
    "mistral": family(MistralConfig, sliding_window=None, head_dim=16),
    "mistral-window": family(MistralConfig, sliding_window=9),
    "qwen2": family(Qwen2Config, tie_word_embeddings=True),
    "qwen2-window": family(Qwen2Config, use_sliding_window=True, sliding_window=6, max_window_layers=1),
    "qwen3": family(Qwen3Config, head_dim=16, tie_word_embeddings=True),
    "qwen3-window": family(
        Qwen3Config,
        head_dim=12,
        use_sliding_window=True,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "smollm3": family(SmolLM3Config, num_hidden_layers=5),
    "smollm3-window": family(SmolLM3Config, no_rope_layers=[1, 0, 1], use_sliding_window=True, sliding_window=7),
    "phi3": family(Phi3Config),
    "phi3-partial-window": family(Phi3Config, partial_rotary_factor=0.5, sliding_window=8),
    "gpt2": lambda: GPT2Config(**GPT2),
    "gpt2-inner": lambda: GPT2Config(**GPT2, n_inner=100, activation_function="gelu_pytorch_tanh"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_family_equals_hugging_face(name: str, tmp_path: Path) -> None:
    model = save_tiny(tmp_path, FAMILIES[name]())
    spec, prompts = load_spec(tmp_path), ragged_prompts(8)
    assert_scores(model, load(tmp_path), spec, prompts)
    if not any(spec.windows):
        assert_greedy(model, Engine.load(tmp_path, rows=5).generate(greedy_requests(prompts)))


def load(folder: Path) -> Weights:
    return from_state_dict(load_spec(folder), load_state_dict(find_weight_files(folder)))


@pytest.mark.parametrize("name", ["mistral-window", "qwen3-window", "phi3-partial-window", "gpt2"])
def test_keep_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    save_tiny(tmp_path, FAMILIES[name]())
    spec, weights, lengths = load_spec(tmp_path), load(tmp_path), [20, 12]
    tokens, positions = torch.arange(32) + 3, torch.cat([torch.arange(length) for length in lengths])
    keep = torch.tensor([31, 19, 4])
    whole = forward(weights, spec, tokens, positions, masked_attention(spec, lengths))
    some = forward(weights, spec, tokens, positions, masked_attention(spec, lengths, keep), keep)
    torch.testing.assert_close(some, whole[keep], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["qwen3", "phi3", "gpt2", "llama-biased"])
def test_state_dict_round_trips(name: str, tmp_path: Path) -> None:
    model = save_tiny(tmp_path, FAMILIES[name]())
    state = to_state_dict(load_spec(tmp_path), load(tmp_path))
    saved = load_state_dict(find_weight_files(tmp_path))
    assert state.keys() == saved.keys()
    assert all(tensor.equal(saved[name]) for name, tensor in state.items())
    assert sum(tensor.numel() for tensor in state.values()) == model.num_parameters()
    drawn = init_weights(load_spec(tmp_path), torch.Generator().manual_seed(0))
    assert [tensor.shape for tensor in drawn.tensors()] == [tensor.shape for tensor in load(tmp_path).tensors()]
