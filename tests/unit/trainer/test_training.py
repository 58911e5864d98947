"""A tiny run from text to folder, and everyone who must be able to read that folder."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from worker.engine import Engine, Request, SamplingParams
from worker.engine.checkpoint import load_state_dict
from worker.engine.families import load_spec
from worker.engine.tokenizer import load_tokenizer
from worker.engine.transformer import forward, logits
from worker.engine.weights import from_state_dict
from worker.trainer import Figures, Progress, TrainSettings, train
from worker.trainer.network import causal_attention

TINY = TrainSettings(
    vocab_size=400,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    context_tokens=128,
    max_entries=300,
    num_steps=40,
    batch_tokens=512,
    learning_rate=1e-2,
    warmup_steps=5,
    validation_interval_steps=20,
    keep_checkpoints=True,
)
PROMPT = "abc.ABC:"


class Run:
    """One tiny run, shared by the tests of this file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.progress: list[Progress] = []
        self.figures: Figures = train(folder, settings=TINY, progress=self.progress.append)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("trained"))


def own_logits(folder: Path, file: Path, token_ids: list[int]) -> torch.Tensor:
    """Scores [N, V] of the engine's functions on the weights of a file, in float32."""
    spec = load_spec(folder)
    weights = from_state_dict(spec, {name: value.float() for name, value in load_state_dict([file]).items()})
    positions = torch.arange(len(token_ids))
    with torch.no_grad():
        hidden = forward(weights, spec, torch.tensor(token_ids), positions, causal_attention(1))
        return logits(weights, spec, hidden)


def prompt_ids(folder: Path) -> list[int]:
    tokenizer = load_tokenizer(folder)
    assert tokenizer is not None
    return tokenizer.encode(PROMPT, add_special_tokens=True)


def test_training_lowers_the_loss(run: Run) -> None:
    first, last = run.progress
    assert (first.step, last.step) == (20, 40)
    assert last.train_loss < first.train_loss < 6.0  # ln 400, before any learning
    assert last.validation_loss is not None
    assert first.validation_loss is not None
    assert last.validation_loss < first.validation_loss


def test_folder_holds_model_tokenizer_card_and_history(run: Run) -> None:
    names = {path.name for path in run.folder.iterdir() if path.is_file()}
    assert names == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json"),
        *("README.md", "loss.png", "training.json"),
    }
    history = json.loads((run.folder / "training.json").read_text())
    assert [point["step"] for point in history["history"]] == [20, 40]
    assert history["figures"]["num_parameters"] == run.figures.num_parameters


def test_transformers_reads_the_folder_and_computes_the_same(run: Run) -> None:
    token_ids = prompt_ids(run.folder)
    model = LlamaForCausalLM.from_pretrained(run.folder, dtype=torch.float32)
    with torch.no_grad():
        theirs = model(torch.tensor([token_ids])).logits[0]
    ours = own_logits(run.folder, run.folder / "model.safetensors", token_ids)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert model.config.eos_token_id == TINY.vocab_size - 1
    assert model.config.bos_token_id is None


def test_engine_reads_the_folder(run: Run) -> None:
    request = Request("a", prompt=PROMPT, params=SamplingParams(max_tokens=8, temperature=0.0))
    (output,) = Engine.load(run.folder, device="cpu", dtype="float32", rows=2).generate([request])
    assert output.error is None
    assert output.prompt_token_ids == prompt_ids(run.folder)
    scores = own_logits(run.folder, run.folder / "model.safetensors", output.prompt_token_ids)
    assert output.token_ids[0] == scores[-1].argmax()


def test_engine_reads_a_chat_as_the_prompt_it_was_trained_on(run: Run) -> None:
    messages = [{"role": "user", "content": "wrong"}, {"role": "user", "content": " abc.ABC "}]
    request = Request("a", messages=messages, params=SamplingParams(max_tokens=1, temperature=0.0))
    (output,) = Engine.load(run.folder, device="cpu", dtype="float32", rows=2).generate([request])
    assert output.prompt_token_ids == prompt_ids(run.folder)


def test_checkpoints_are_plain_state_dicts_of_the_same_weights(run: Run) -> None:
    checkpoints = sorted((run.folder / "checkpoints").iterdir())
    assert [path.name for path in checkpoints] == ["step-000020", "step-000040"]
    state = torch.load(checkpoints[-1] / "model.pt", weights_only=True)
    rounded = load_state_dict([run.folder / "model.safetensors"])
    assert state.keys() == rounded.keys()
    assert all(torch.equal(state[name].bfloat16(), rounded[name]) for name in state)


def test_engine_reads_a_checkpoint(run: Run) -> None:
    request = Request("a", prompt=PROMPT, params=SamplingParams(max_tokens=4, temperature=0.0))
    folder = run.folder / "checkpoints" / "step-000040"
    (output,) = Engine.load(folder, device="cpu", dtype="float32", rows=2).generate([request])
    assert output.error is None


def test_card_states_the_figures_and_shows_the_curve(run: Run) -> None:
    card = (run.folder / "README.md").read_text()
    assert f"{run.figures.num_parameters:,} parameters" in card
    assert "![Training and validation loss over the steps](loss.png)" in card
    assert str(run.folder) not in card
    assert "{" not in card


def test_same_seed_trains_the_same_weights_and_another_seed_others(run: Run, tmp_path: Path) -> None:
    train(tmp_path / "same", settings=TINY)
    train(tmp_path / "other", settings=replace(TINY, seed=2, num_steps=1))
    ours, same, other = (
        (folder / "model.safetensors").read_bytes() for folder in (run.folder, tmp_path / "same", tmp_path / "other")
    )
    assert ours == same
    assert ours != other


def test_training_works_with_nothing_held_out_and_leaves_torch_as_it_was(tmp_path: Path) -> None:
    before = torch.get_num_threads(), torch.random.get_rng_state()
    figures = train(tmp_path, settings=replace(TINY, num_steps=1, validation_percent=0))
    assert figures.validation_loss is None
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])
