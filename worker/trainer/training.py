"""`batchmill train`: from the interpreter's own documentation to a model folder with its card."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from worker.trainer.card import write_card
from worker.trainer.corpus import standard_library_entries
from worker.trainer.data import Dataset, build_dataset
from worker.trainer.loop import Progress, Trained, fit
from worker.trainer.picture import draw_losses
from worker.trainer.report import Figures, answer_samples, measure, write_history
from worker.trainer.saving import save_checkpoint, save_model
from worker.trainer.settings import TrainSettings


def train(
    output: Path, *, settings: TrainSettings | None = None, progress: Callable[[Progress], None] | None = None
) -> Figures:
    """Train a model and write its folder; files of the same names are replaced.

    Raises OSError where the folder cannot be written, before any training.
    """
    settings = settings or TrainSettings()
    output.mkdir(parents=True, exist_ok=True)
    entries = standard_library_entries()[: settings.max_entries]
    dataset = build_dataset(entries, settings)
    with _threads(settings.num_threads):
        trained = fit(dataset, settings, _observer(output, dataset, settings, progress))
        figures = measure(trained, dataset)
        answers = answer_samples(trained, dataset, entries, settings)
    save_model(output, trained.spec, trained.weights, dataset.ranks)
    write_history(output / "training.json", trained, settings, figures)
    draw_losses(output / "loss.png", trained.history)
    write_card(output, trained, settings, figures, answers)
    return figures


def _observer(
    output: Path, dataset: Dataset, settings: TrainSettings, progress: Callable[[Progress], None] | None
) -> Callable[[Trained], None]:
    """What happens at each validation: a checkpoint where they are kept, and a report."""

    def observe(trained: Trained) -> None:
        last = trained.history[-1]
        if settings.keep_checkpoints:
            folder = output / "checkpoints" / f"step-{last.step:06d}"
            save_checkpoint(folder, trained.spec, trained.weights, dataset.ranks)
        if progress is not None:
            progress(last)

    return observe


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Fix torch's thread count, on which the order of sums depends, and put it back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
