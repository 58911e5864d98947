"""Every family against Hugging Face's own model of a random tiny checkpoint, and what is refused by its name."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
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
from worker.engine import Engine, EngineError
from worker.engine.checkpoint import find_weight_files, load_state_dict
from worker.engine.families import load_spec, parse_config, to_config
from worker.engine.linear import pack
from worker.engine.spec import Spec
from worker.engine.transformer import forward, logits
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
YARN_STEP = rope("yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=4, beta_slow=4, truncate=False)
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
    "llama-yarn-step": family(LlamaConfig, **YARN_STEP),
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
    assert_greedy(model, Engine.load(tmp_path, rows=5).generate(greedy_requests(prompts)))


def load(folder: Path, **how: Any) -> Weights:  # noqa: ANN401
    return from_state_dict(load_spec(folder), load_state_dict(find_weight_files(folder)), **how)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama-biased", "qwen3", "phi3-partial-window", "gpt2"])
def test_rows_do_not_depend_on_their_number(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """The law of the batch for what only some families compute: biases, head norms, LayerNorm, partial rotation."""
    save_tiny(tmp_path, FAMILIES[name]())
    spec, weights = load_spec(tmp_path), load(tmp_path, place=lambda tensor: tensor.to(dtype), relay=pack)
    tokens, positions = torch.arange(304) % VOCAB_SIZE, torch.arange(304) % 200

    def run(rows: Tensor) -> Tensor:
        return logits(
            weights, spec, forward(weights, spec, tokens[rows], positions[rows], lambda *qkv: qkv[1].flatten(1))
        )

    with torch.inference_mode():
        whole = run(torch.arange(304))
        for count in (16, 48, 160):
            rows = torch.randperm(304, generator=torch.Generator().manual_seed(count))[:count]
            assert run(rows).equal(whole[rows])


class Watched(dict[str, Tensor]):
    """Hands out copies, and records how many bytes of them were alive at once."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__(state)
        self.alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
        self.most = 0

    def __getitem__(self, name: str) -> Tensor:
        tensor = super().__getitem__(name).clone()
        self.alive.add(tensor)
        self.most = max(self.most, sum(other.nbytes for other in self.alive))
        return tensor


def test_loading_holds_one_fused_tensor_of_the_files(tmp_path: Path) -> None:
    save_tiny(tmp_path, LlamaConfig(**(TINY | {"num_hidden_layers": 12})))
    state = Watched(load_state_dict(find_weight_files(tmp_path)))
    weights = from_state_dict(load_spec(tmp_path), state)
    assert 0 < state.most <= max(tensor.nbytes for tensor in weights.tensors())


def test_weights_share_no_memory_with_the_files(tmp_path: Path) -> None:
    """A file replaced while the engine runs must not change its weights, nor kill it."""
    save_tiny(tmp_path, LlamaConfig(**TINY))
    state = load_state_dict(find_weight_files(tmp_path))
    weights = from_state_dict(load_spec(tmp_path), state)
    places = {tensor.untyped_storage().data_ptr() for tensor in state.values()}
    assert all(tensor.untyped_storage().data_ptr() not in places for tensor in weights.tensors())


def test_gpt2_of_the_hub_has_no_prefix_and_carries_masks(tmp_path: Path) -> None:
    save_tiny(tmp_path, FAMILIES["gpt2"]())
    state = load_state_dict(find_weight_files(tmp_path))
    bare = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    bare |= {"h.0.attn.bias": torch.ones(1, 1, 4, 4), "h.0.attn.masked_bias": torch.ones(())}
    found = from_state_dict(load_spec(tmp_path), bare)
    assert all(a.equal(b) for a, b in zip(found.tensors(), load(tmp_path).tensors(), strict=True))


def parse(model_type: str, **changes: object) -> Spec:
    config = (GPT2 if model_type == "gpt2" else TINY) | {"model_type": model_type} | changes
    return parse_config({name: value for name, value in config.items() if value != "absent"})


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("gemma2", {}, "architecture gemma2 is not supported; llama, mistral"),
        ("qwen2_moe", {}, "architecture qwen2_moe"),
        ("llama", {"num_local_experts": 8}, "num_local_experts to 8"),
        ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor, which is not supported"),
        ("mistral", {"layer_types": ["full_attention"] * 3}, "layer_types"),
        ("mistral", {"sliding_window": 0}, "sliding_window must be at least 1"),
        ("qwen2", {"layer_types": ["linear_attention"] * 3}, "layer type 'linear_attention'"),
        ("qwen3", {"layer_types": ["full_attention"] * 2}, "one entry for each of 3 layers"),
        ("qwen2", {"rope_scaling": {"type": "mrope"}}, "rope scaling 'mrope'"),
        ("qwen3", {"hidden_act": "relu"}, "hidden_act to 'relu'"),
        ("qwen3", {"num_key_value_heads": {}, "rms_norm_eps": {}}, "wrong kind"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "one entry for each of 3 layers"),
        ("phi3", {"rope_scaling": {"type": "longrope"}}, "rope scaling 'longrope'"),
        ("phi3", {"rope_scaling": {"type": "su"}}, "rope scaling 'su'"),
        ("phi3", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "phi3 with a rope scaling other than default"),
        ("phi3", {"partial_rotary_factor": 0.4}, "must be even"),
        ("gpt2", {"activation_function": "relu"}, "activation_function to 'relu'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights"),
        ("gpt2", {"n_head": 5}, "n_embd must be a multiple of n_head"),
    ],
)
def test_unsupported_config_is_named(model_type: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        parse(model_type, **changes)


@pytest.mark.parametrize(
    ("model_type", "changes", "windows"),
    [
        ("mistral", {"max_position_embeddings": 32768}, (4096,) * 3),  # the default where the key is absent
        ("mistral", {}, (None,) * 3),  # 4096 is more than the context of 256
        ("mistral", {"sliding_window": 255}, (255,) * 3),
        ("mistral", {"sliding_window": 256}, (None,) * 3),
        ("qwen2", {"sliding_window": 8, "max_window_layers": 0}, (None,) * 3),  # use_sliding_window is not set
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}, (None, None, 8)),
        ("phi3", {"sliding_window": 8}, (8,) * 3),
        ("smollm3", {"sliding_window": 8, "use_sliding_window": True, "no_rope_layer_interval": 2}, (None, 8, None)),
        ("gpt2", {}, (None,) * 3),
    ],
)
def test_windows_of_each_layer(model_type: str, changes: dict[str, object], windows: tuple[int | None, ...]) -> None:
    assert parse(model_type, **changes).windows == windows


@pytest.mark.parametrize("name", ["llama-linear", "llama-dynamic", "llama3.1", "llama-yarn", "llama-yarn-mscale"])
def test_both_rope_spellings_of_all_kinds_agree(name: str) -> None:
    config = FAMILIES[name]().to_dict()
    rope = dict(config.pop("rope_parameters"))
    theta, kind = rope.pop("rope_theta"), rope.pop("rope_type")
    old = config | {"rope_theta": theta, "rope_scaling": {**rope, "type": kind}}
    assert parse_config(old) == parse_config(FAMILIES[name]().to_dict())
    assert parse_config(to_config(parse_config(old))) == parse_config(old)


def test_defaults_of_absent_keys_are_the_familys() -> None:
    spec = parse("smollm3", num_hidden_layers=8)
    assert spec.rotated == (True, True, True, False) * 2
    assert (spec.rope_theta, spec.tie_word_embeddings) == (2e6, True)
    assert parse("qwen3").head_dim == 128
    assert parse("phi3").norm_eps == 1e-5
    assert parse("llama").norm_eps == 1e-6


def test_only_the_llama_family_is_written() -> None:
    with pytest.raises(EngineError, match="not gpt2"):
        to_config(parse("gpt2"))
