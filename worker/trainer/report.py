"""What a training run has to show: figures measured on the saved weights, sample answers, the model card."""

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from worker.engine.weights import from_state_dict, to_state_dict
from worker.trainer.corpus import Entry, in_validation
from worker.trainer.data import Dataset, make_encoding
from worker.trainer.loop import Trained
from worker.trainer.network import complete, count_parameters, mean_loss, recall
from worker.trainer.saving import round_weights, write_json
from worker.trainer.settings import TrainSettings

_ANSWER_TOKENS = 64
_FAMOUS = ("json.dumps", "shutil.copy", "str.split", "itertools.chain", "threading.Thread", "with")
_INVENTED = ("shutil.copy_all", "math.cube", "zipfile.unpack", "random.pick")
_NUM_HELD_OUT = 4
_NUM_BEGINNINGS = 3
_BEGINNING_TOKENS = 12


@dataclass(frozen=True, slots=True)
class Figures:
    """Measured on the weights as saved. Losses are nats per token; recall is a share of the training split."""

    num_parameters: int
    num_train: int
    num_validation: int
    num_tokens_seen: int
    seconds: float
    train_loss: float | None
    validation_loss: float | None
    lowest_validation_loss: float | None  # over the run; the weights of that moment are not kept
    recall: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A prompt, what greedy decoding answers, and where the name comes from."""

    prompt: str
    text: str
    origin: str


def measure(trained: Trained, dataset: Dataset) -> Figures:
    """Evaluate the saved weights over both splits."""
    saved, last = as_saved(trained), trained.history[-1]
    losses = [progress.validation_loss for progress in trained.history if progress.validation_loss is not None]
    return Figures(
        num_parameters=count_parameters(saved.weights),
        num_train=len(dataset.train),
        num_validation=len(dataset.validation),
        num_tokens_seen=last.num_tokens,
        seconds=round(last.seconds, 1),
        train_loss=mean_loss(saved.weights, saved.spec, dataset.train),
        validation_loss=mean_loss(saved.weights, saved.spec, dataset.validation),
        lowest_validation_loss=min(losses, default=None),
        recall=recall(saved.weights, saved.spec, dataset.train),
    )


def as_saved(trained: Trained) -> Trained:
    """The decoder with weights rounded to the dtype of the file, computing in float32."""
    state = to_state_dict(trained.spec, round_weights(trained.spec, trained.weights))
    weights = from_state_dict(trained.spec, {name: tensor.float() for name, tensor in state.items()})
    return Trained(trained.spec, weights, trained.history)


def answer_samples(
    trained: Trained, dataset: Dataset, entries: Sequence[Entry], settings: TrainSettings
) -> list[Answer]:
    """Ask for names a reader knows, names held out, and names that do not exist."""
    held_out = [entry.name for entry in entries if in_validation(entry, percent=settings.validation_percent)]
    origins = {entry.name: "trained on" for entry in entries} | dict.fromkeys(held_out, "held out")
    spread = held_out[:: max(1, len(held_out) // _NUM_HELD_OUT)][:_NUM_HELD_OUT]
    encoding, saved = make_encoding(dataset.ranks), as_saved(trained)
    answers = []
    for name in (*_FAMOUS, *spread, *_INVENTED):
        prompt_ids = encoding.encode_ordinary(f"{name}:")
        token_ids = complete(saved.weights, saved.spec, prompt_ids, max_tokens=_ANSWER_TOKENS)
        answers.append(Answer(f"{name}:", encoding.decode(token_ids).strip(), origins.get(name, "no such name")))
    return answers


def continue_samples(trained: Trained, dataset: Dataset) -> list[Answer]:
    """Go on from the beginnings of a few windows of the text."""
    encoding, saved = make_encoding(dataset.ranks), as_saved(trained)
    beginnings = [(sample, "trained on") for sample in dataset.train[:_NUM_BEGINNINGS]]
    beginnings += [(sample, "held out") for sample in dataset.validation[:_NUM_BEGINNINGS]]
    answers = []
    for sample, origin in beginnings:
        prompt_ids = sample.token_ids[: min(_BEGINNING_TOKENS, len(sample) - 1)]
        token_ids = complete(saved.weights, saved.spec, prompt_ids, max_tokens=_ANSWER_TOKENS)
        answers.append(Answer(encoding.decode(prompt_ids), encoding.decode(token_ids), origin))
    return answers


def write_history(path: Path, trained: Trained, settings: TrainSettings, figures: Figures) -> None:
    """Write settings, versions, figures and the loss at each validation."""
    written: dict[str, Any] = {
        "settings": asdict(settings),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "figures": asdict(figures),
        "history": [asdict(progress) for progress in trained.history],
    }
    write_json(path, written)
