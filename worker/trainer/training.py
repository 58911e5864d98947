"""`batchmill train`: from text files, or the interpreter's own documentation, to a model folder with its card."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from worker.trainer.card import write_card
from worker.trainer.corpus import standard_library_entries
from worker.trainer.data import Dataset, build_dataset
from worker.trainer.loop import Progress, Run, Trained, fit
from worker.trainer.picture import draw_losses
from worker.trainer.report import Figures, answer_samples, continue_samples, measure, write_history
from worker.trainer.resuming import fingerprint, restore_run, save_run
from worker.trainer.saving import DEMO_CHAT_TEMPLATE, save_checkpoint, save_model
from worker.trainer.settings import TrainSettings
from worker.trainer.text_card import write_text_card
from worker.trainer.texts import build_text_dataset, read_texts

STATE_NAME = "resume.pt"


def train(
    output: Path,
    *,
    settings: TrainSettings | None = None,
    progress: Callable[[Progress], None] | None = None,
    fresh: bool = False,
) -> Figures:
    """Train the demo model and write its folder; files of the same names are replaced.

    Interrupted and called again, it goes on from its last validation, unless `fresh`. Raises OSError where the folder
    cannot be written, before any training, and ValueError where it holds the state of another run.
    """
    settings = settings or TrainSettings()
    entries = standard_library_entries()[: settings.max_entries]
    dataset = build_dataset(entries, settings)
    with _threads(settings.num_threads):
        trained = _fit(output, dataset, settings, progress, chat_template=DEMO_CHAT_TEMPLATE, fresh=fresh)
        figures = measure(trained, dataset)
        answers = answer_samples(trained, dataset, entries, settings)
    _save(output, trained, dataset, settings, figures, chat_template=DEMO_CHAT_TEMPLATE)
    write_card(output, trained, settings, figures, answers)
    return figures


def train_on_files(
    output: Path,
    files: Sequence[Path],
    *,
    settings: TrainSettings | None = None,
    progress: Callable[[Progress], None] | None = None,
    fresh: bool = False,
) -> Figures:
    """Train on text files, otherwise as `train`; the model continues text and has no chat template.

    Raises OSError and ValueError for files that cannot be read, are not UTF-8 or are empty.
    """
    settings = settings or TrainSettings()
    dataset = build_text_dataset(read_texts(files), settings)
    with _threads(settings.num_threads):
        trained = _fit(output, dataset, settings, progress, chat_template=None, fresh=fresh)
        figures = measure(trained, dataset)
        samples = continue_samples(trained, dataset)
    _save(output, trained, dataset, settings, figures, chat_template=None)
    write_text_card(output, settings, figures, samples)
    return figures


def _fit(
    output: Path,
    dataset: Dataset,
    settings: TrainSettings,
    progress: Callable[[Progress], None] | None,
    *,
    chat_template: str | None,
    fresh: bool,
) -> Trained:
    """Train, keeping at each validation what an interrupted run goes on from."""
    output.mkdir(parents=True, exist_ok=True)
    state, of = output / STATE_NAME, fingerprint(dataset, settings)

    def observe(run: Run) -> None:
        last = run.trained.history[-1]
        save_run(state, run, of=of)
        if settings.keep_checkpoints:
            folder = output / "checkpoints" / f"step-{last.step:06d}"
            save_checkpoint(folder, run.trained.spec, run.trained.weights, dataset.ranks, chat_template=chat_template)
        if progress is not None:
            progress(last)

    goes_on = state.is_file() and not fresh
    return fit(dataset, settings, observe, partial(restore_run, state, of=of) if goes_on else None)


def _save(
    output: Path,
    trained: Trained,
    dataset: Dataset,
    settings: TrainSettings,
    figures: Figures,
    *,
    chat_template: str | None,
) -> None:
    """Write the model's folder; the state of the run, which is over, goes."""
    save_model(output, trained.spec, trained.weights, dataset.ranks, chat_template=chat_template)
    write_history(output / "training.json", trained, settings, figures)
    draw_losses(output / "loss.png", trained.history)
    (output / STATE_NAME).unlink(missing_ok=True)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Fix torch's thread count, on which the order of sums depends, and put it back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
