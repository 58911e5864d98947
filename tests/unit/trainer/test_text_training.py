"""Training on a user's own text files: what is learned, being interrupted, and who can read the folder."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from cli.train import train_model
from models.errors import ConfigurationError
from worker.engine import Engine, Request, RowError, SamplingParams
from worker.engine.checkpoint import load_state_dict
from worker.engine.families import load_spec
from worker.engine.transformer import forward, logits
from worker.engine.weights import Weights, from_state_dict, to_state_dict
from worker.trainer import Figures, Progress, TrainSettings, train_on_files
from worker.trainer.network import causal_attention, make_spec, trainable_weights
from worker.trainer.saving import round_weights, save_model
from worker.trainer.texts import build_text_dataset, read_texts
from worker.trainer.training import STATE_NAME

TINY = TrainSettings(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    context_tokens=32,
    num_steps=30,
    batch_tokens=256,
    learning_rate=1e-2,
    warmup_steps=5,
    validation_interval_steps=10,
)
VERSE = "Row, row, row your boat, gently down the stream.\n\u00c0 la claire fontaine, m'en allant promener \u2192 {x}\n"


class Stop(Exception):
    """Ends a run as a kill would."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("texts")
    paths = [folder / "a.txt", folder / "b.md"]
    paths[0].write_text(VERSE * 40, encoding="utf-8")
    paths[1].write_text("Merrily, merrily, life is but a dream.\n" * 40, encoding="utf-8")
    return paths


class Trained:
    """One run to the end, shared by the tests of this file."""

    def __init__(self, folder: Path, files: list[Path]) -> None:
        self.folder = folder
        self.progress: list[Progress] = []
        self.figures: Figures = train_on_files(folder, files, settings=TINY, progress=self.progress.append)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, files: list[Path]) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"), files)


def scores(folder: Path, weights: Weights, token_ids: list[int]) -> torch.Tensor:
    """Logits [N, V] of the engine's functions."""
    spec = load_spec(folder)
    with torch.no_grad():
        positions = torch.arange(len(token_ids))
        return logits(weights, spec, forward(weights, spec, torch.tensor(token_ids), positions, causal_attention(1)))


def loaded(folder: Path) -> Weights:
    """The weights of a folder's file, in float32."""
    state = load_state_dict([folder / "model.safetensors"])
    return from_state_dict(load_spec(folder), {name: tensor.float() for name, tensor in state.items()})


def test_loss_falls_on_both_splits(run: Trained) -> None:
    first, last = run.progress[0], run.progress[-1]
    assert last.train_loss < first.train_loss < 5.71  # ln 300, before any learning
    assert first.validation_loss is not None
    assert last.validation_loss is not None
    assert last.validation_loss < first.validation_loss


def test_folder_is_a_standard_one_with_curve_and_card(run: Trained) -> None:
    names = {path.name for path in run.folder.iterdir()}
    assert names == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json"),
        *("README.md", "loss.png", "training.json"),
    }
    assert (run.folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert [point["step"] for point in json.loads((run.folder / "training.json").read_text())["history"]] == [
        10,
        20,
        30,
    ]
    card = (run.folder / "README.md").read_text()
    assert f"{run.figures.num_parameters:,} parameters" in card
    assert "Row, row" in card
    assert "demo" not in card


def test_saved_weights_give_the_logits_they_gave_before(tmp_path: Path) -> None:
    spec = make_spec(TINY, vocab_size=300, end_id=299)
    before = round_weights(spec, trainable_weights(spec, seed=5))
    save_model(tmp_path, spec, before, {bytes([byte]): byte for byte in range(256)}, chat_template=None)
    token_ids = list(range(40, 60))
    expected = scores(tmp_path, _float(before, tmp_path), token_ids)
    assert torch.equal(scores(tmp_path, loaded(tmp_path), token_ids), expected)


def _float(weights: Weights, folder: Path) -> Weights:
    spec = load_spec(folder)
    return from_state_dict(spec, {name: tensor.float() for name, tensor in to_state_dict(spec, weights).items()})


def test_engine_and_transformers_read_the_folder_and_agree(run: Trained) -> None:
    engine = Engine.load(run.folder, device="cpu", dtype="float32", rows=2)
    params = SamplingParams(max_tokens=8, temperature=0.0)
    (output,) = engine.generate([Request("a", prompt="Row, row", params=params)])
    assert output.error is None
    model = LlamaForCausalLM.from_pretrained(run.folder, dtype=torch.float32)
    with torch.no_grad():
        theirs = model(torch.tensor([output.prompt_token_ids])).logits[0]
    ours = scores(run.folder, loaded(run.folder), output.prompt_token_ids)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert output.token_ids[0] == theirs[-1].argmax()


def test_a_model_of_text_holds_no_chat_template(run: Trained) -> None:
    engine = Engine.load(run.folder, device="cpu", dtype="float32", rows=2)
    with pytest.raises(RowError, match="no chat template"):
        engine.prepare(Request("a", messages=[{"role": "user", "content": "x"}]))


def stop_at(step: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.step == step:
            raise Stop

    return report


def test_an_interrupted_run_ends_with_the_same_weights(run: Trained, files: list[Path], tmp_path: Path) -> None:
    for step in (10, 20):
        with pytest.raises(Stop):
            train_on_files(tmp_path, files, settings=TINY, progress=stop_at(step))
        assert (tmp_path / STATE_NAME).is_file()
    reported: list[Progress] = []
    train_on_files(tmp_path, files, settings=TINY, progress=reported.append)
    assert [progress.step for progress in reported] == [30]
    assert (tmp_path / "model.safetensors").read_bytes() == (run.folder / "model.safetensors").read_bytes()
    history = json.loads((tmp_path / "training.json").read_text())["history"]
    losses = [point["train_loss"] for point in history]
    assert losses == [progress.train_loss for progress in run.progress]
    assert [point["num_tokens"] for point in history] == [progress.num_tokens for progress in run.progress]
    seconds = [point["seconds"] for point in history]
    assert seconds == sorted(seconds)
    assert not (tmp_path / STATE_NAME).exists()


def test_another_run_does_not_go_on_from_the_state_unless_told_to_forget(files: list[Path], tmp_path: Path) -> None:
    settings = replace(TINY, num_steps=20)
    with pytest.raises(Stop):
        train_on_files(tmp_path, files, settings=settings, progress=stop_at(10))
    for changed, texts in ((replace(settings, seed=2), files), (settings, files[:1])):
        with pytest.raises(ValueError, match="start anew with --fresh"):
            train_on_files(tmp_path, texts, settings=changed)
    reported: list[Progress] = []
    train_on_files(tmp_path, files[:1], settings=settings, progress=reported.append, fresh=True)
    assert [progress.step for progress in reported] == [10, 20]


def test_windows_hold_every_token_and_predict_each_once(files: list[Path]) -> None:
    texts = read_texts(files)
    dataset = build_text_dataset(texts, replace(TINY, validation_percent=0))
    pieces = {rank: piece for piece, rank in dataset.ranks.items()} | {dataset.end_id: b"|"}
    joined = b"".join(
        pieces[index]
        for number, sample in enumerate(dataset.train)
        for index in (
            sample.token_ids
            if not number or dataset.train[number - 1].token_ids[-1] == dataset.end_id
            else sample.token_ids[1:]
        )
    )
    assert joined.decode() == "".join(f"{text}|" for text in texts)
    assert max(map(len, dataset.train)) == TINY.context_tokens


def test_a_share_of_the_windows_is_held_out(files: list[Path]) -> None:
    dataset = build_text_dataset(read_texts(files), replace(TINY, validation_percent=10))
    assert len(dataset.validation) == (len(dataset.train) + len(dataset.validation)) // 10 > 0


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "are empty"), (b"caf\xe9", r"b\.txt is not UTF-8 text: byte 3"), (None, "No such file")],
)
def test_files_that_cannot_be_trained_on_are_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "b.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        train_model(tmp_path / "out", [file], steps=1, seed=None, fresh=False)


def test_the_command_prints_the_loss_and_where_it_saved(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # rich folds lines at the terminal's width
    train_model(tmp_path / "out", files[1:], steps=1, seed=3, fresh=False)
    printed = capsys.readouterr()
    assert printed.err.startswith("step 1 of 1: loss ")
    assert f"saved {tmp_path / 'out'}; try: batchmill run" in printed.err
    assert printed.out == ""
