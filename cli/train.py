"""`batchmill train`: a small model from text files, or the demo model, to a folder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from models.errors import ConfigurationError
from worker.trainer import Progress, TrainSettings, train_on_files
from worker.trainer import train as train_demo


def train_model(output: Path, files: Sequence[Path], *, steps: int | None, seed: int | None, fresh: bool) -> None:
    """Train with the shipped model's settings, but for what is given; a line of progress at each validation.

    Raises ConfigurationError for files that cannot be trained on and for the state of another run in the folder.
    """
    settings = TrainSettings()
    settings = replace(settings, num_steps=steps or settings.num_steps, seed=settings.seed if seed is None else seed)
    console = Console(stderr=True, highlight=False)

    def report(progress: Progress) -> None:
        held_out = "" if progress.validation_loss is None else f", held out {progress.validation_loss:.3f}"
        left = progress.seconds / progress.step * (progress.num_steps - progress.step)
        console.print(
            f"step {progress.step} of {progress.num_steps}: loss {progress.train_loss:.3f}{held_out}, {left:.0f} s left"
        )

    try:
        if files:
            train_on_files(output, files, settings=settings, progress=report, fresh=fresh)
        else:
            train_demo(output, settings=settings, progress=report, fresh=fresh)
    except OSError as error:
        raise ConfigurationError(f"cannot use {error.filename or output}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    prompts = "prompts.jsonl" if files else "examples/prompts.jsonl"
    console.print(f"saved {output}; try: batchmill run {prompts} -o results.jsonl --model {output}", soft_wrap=True)
