"""Checkpoints: every format loads the same tensors, every break has its sentence."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.unit.engine.models import tiny_llama
from worker.engine import Engine, EngineError, Request, SamplingParams, linear
from worker.engine.checkpoint import find_weight_files, hash_files, load_state_dict
from worker.engine.families import load_spec, parse_config, to_config
from worker.engine.loader import choose_dtype, load_model
from worker.engine.weights import from_state_dict, init_weights, save_weights, to_state_dict

REQUEST = Request("a", [5, 6, 7], params=SamplingParams(max_tokens=8, temperature=0.0))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if value != "absent"}))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(str(folder / "model.safetensors"))
    change(state)
    save_file(state, str(folder / "model.safetensors"))


def test_sharded_checkpoint_loads_the_same(llama: tuple[Path, LlamaForCausalLM], tmp_path: Path) -> None:
    llama[1].save_pretrained(tmp_path, max_shard_size="50KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    whole, sharded = (load_state_dict(find_weight_files(path)) for path in (llama[0], tmp_path))
    assert whole.keys() == sharded.keys()
    assert all(whole[name].equal(sharded[name]) for name in whole)


@pytest.mark.parametrize("nested", [False, True])
def test_torch_state_dict_gives_the_same_answers(folder: Path, tmp_path: Path, nested: bool) -> None:
    shutil.copy(folder / "config.json", tmp_path)
    state = load_state_dict(find_weight_files(folder))
    torch.save({"model": state, "step": 3} if nested else state, tmp_path / "last.pt")
    expected = Engine.load(folder).generate([REQUEST])
    assert Engine.load(tmp_path).generate([REQUEST]) == expected
    assert Engine.load(tmp_path / "last.pt").generate([REQUEST]) == expected


def test_plain_linears_give_the_same_tokens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Engine.load(folder).generate([REQUEST])[0]
    monkeypatch.setattr(linear, "pack", _broken_pack)
    engine = Engine.load(folder)
    output = engine.generate([REQUEST])[0]
    assert engine.info.fast_paths["linear"].startswith("plain, since ")
    assert output.token_ids == expected.token_ids
    assert output.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


def _broken_pack(weight: torch.Tensor) -> torch.Tensor:
    raise AttributeError("this build has no such call")


def test_saved_weights_load_in_hugging_face(tmp_path: Path, folder: Path) -> None:
    spec = load_spec(folder)
    weights = init_weights(spec, torch.Generator().manual_seed(3))
    save_weights(tmp_path, spec, weights)
    (tmp_path / "config.json").write_text(json.dumps(to_config(spec)))
    model = LlamaForCausalLM.from_pretrained(tmp_path)
    state = to_state_dict(spec, weights)
    assert all(tensor.equal(state[name]) for name, tensor in model.state_dict().items())
    again = from_state_dict(load_spec(tmp_path), load_state_dict(find_weight_files(tmp_path)))
    assert all(a.equal(b) for a, b in zip(weights.tensors(), again.tensors(), strict=True))


@pytest.mark.parametrize("rope", [{}, {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}])
def test_config_round_trips(folder: Path, rope: dict[str, Any]) -> None:
    extra = {"high_freq_factor": 4.0, "original_max_position_embeddings": 64} if rope else {}
    config = json.loads((folder / "config.json").read_text())
    spec = parse_config(config | {"rope_parameters": {"rope_theta": 5e5, **rope, **extra}})
    assert parse_config(to_config(spec)) == spec


def test_old_and_new_rope_spellings_agree(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"]
    old = parse_config(config | {"rope_theta": 5e5, "rope_scaling": None})
    assert old == parse_config(config | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}})
    assert old.rope_theta == 5e5


def test_stop_tokens_come_from_generation_config_first(copy: Path) -> None:
    edit_config(copy, eos_token_id=[2, 3])
    (copy / "generation_config.json").write_text("{}")
    assert load_spec(copy).eos_token_ids == (2, 3)
    (copy / "generation_config.json").write_text('{"eos_token_id": [4, 5], "do_sample": true}')
    assert load_spec(copy).eos_token_ids == (4, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mixtral"}, "architecture mixtral is not supported; llama, mistral"),
        ({"model_type": "absent"}, "architecture LlamaForCausalLM is not"),
        ({"attention_bias": True}, "lacks model.layers.0.self_attn.q_proj.bias"),
        ({"sliding_window": 128}, "sliding_window"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope scaling 'longrope'"),
        ({"rope_scaling": {"type": "linear"}}, "lacks factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"num_attention_heads": 0, "head_dim": None}, "wrong kind"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "lacks factor"),
        ({"vocab_size": "absent"}, "lacks vocab_size"),
        ({"vocab_size": "many"}, "wrong kind"),
        ({"num_key_value_heads": 4}, "must be a multiple"),
        ({"num_hidden_layers": 0}, "num_layers must be at least 1"),
        ({"head_dim": 7}, "must be even"),
        ({"dtype": "int4"}, "dtype int4"),
        ({"num_hidden_layers": 3}, "lacks model.layers.2.* and 5 more"),
        ({"num_hidden_layers": 1}, "no use for"),
        ({"vocab_size": 200}, "embed_tokens.weight has shape"),
    ],
)
def test_config_that_cannot_work_is_named(copy: Path, changes: dict[str, object], message: str) -> None:
    edit_config(copy, **changes)
    with pytest.raises(EngineError, match=message):
        Engine.load(copy)


def test_missing_and_extra_tensors_are_named(copy: Path) -> None:
    edit_tensors(copy, lambda state: state.pop("model.norm.weight"))
    with pytest.raises(EngineError, match=r"lacks model\.norm\.weight"):
        Engine.load(copy)
    edit_tensors(copy, lambda state: state.update({"model.norm.weight": torch.ones(48), "odd.bias": torch.ones(1)}))
    with pytest.raises(EngineError, match=r"no use for: odd\.bias"):
        Engine.load(copy)


def test_derived_tensors_are_passed_over(tmp_path: Path) -> None:
    tiny_llama(tmp_path, tie_word_embeddings=True)
    head = torch.zeros(199, 48)
    extra = {"lm_head.weight": head, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    edit_tensors(tmp_path, lambda state: state.update(extra))
    assert Engine.load(tmp_path).info.vocab_size == 199


def break_file(folder: Path, name: str, content: str | None) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "holds no config.json"),
        ("config.json", "{", "cannot read"),
        ("config.json", "[]", "does not hold a JSON object"),
        ("model.safetensors", None, "holds no weights"),
        ("model.safetensors", "rubbish", "not a readable safetensors file"),
    ],
)
def test_broken_folders_are_named(copy: Path, name: str, content: str | None, message: str) -> None:
    break_file(copy, name, content)
    with pytest.raises(EngineError, match=message):
        Engine.load(copy)


def test_truncated_safetensors_is_named(copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(EngineError, match="not a readable safetensors file"):
        Engine.load(copy)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="there is no model folder at"):
        Engine.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("index", "message"),
    [("{}", "no weight_map"), ('{"weight_map": {"a": "gone.safetensors"}}', "which is not in the folder")],
)
def test_broken_index_is_named(copy: Path, index: str, message: str) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(index)
    with pytest.raises(EngineError, match=message):
        Engine.load(copy)


def test_torch_files_run_no_code_and_must_hold_tensors(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    torch.save(Path("x"), copy / "model.pt")
    with pytest.raises(EngineError, match="not a readable state dict"):
        Engine.load(copy)
    torch.save({"a": 1}, copy / "model.pt")
    with pytest.raises(EngineError, match="does not hold a state dict"):
        Engine.load(copy)
    torch.save({}, copy / "other.pth")
    with pytest.raises(EngineError, match="several"):
        Engine.load(copy)


def test_fingerprint_follows_the_weights(copy: Path, folder: Path) -> None:
    before = hash_files(find_weight_files(folder))
    assert hash_files(find_weight_files(copy)) == before
    edit_tensors(copy, lambda state: state["model.norm.weight"].mul_(2))
    assert hash_files(find_weight_files(copy)) != before


def test_auto_dtype_is_float32_on_a_cpu_and_the_checkpoints_on_cuda(folder: Path) -> None:
    spec = replace(load_spec(folder), dtype="bfloat16")
    assert load_model(folder, device="cpu", dtype="auto").dtype == torch.float32
    cuda = torch.device("cuda")
    assert (
        choose_dtype("auto", spec=parse_config(to_config(spec) | {"dtype": "bfloat16"}), device=cuda) == torch.bfloat16
    )
