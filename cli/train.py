"""`batchmill train`: the demo model from its text to its folder."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from worker.trainer import Progress, TrainSettings
from worker.trainer import train as train_model


def train_demo(output: Path, *, steps: int | None, seed: int | None) -> None:
    """Train with the shipped model's settings, but for what is given; a line of progress at each validation."""
    settings = TrainSettings()
    settings = replace(settings, num_steps=steps or settings.num_steps, seed=settings.seed if seed is None else seed)
    console = Console(stderr=True, highlight=False)

    def report(progress: Progress) -> None:
        held_out = "" if progress.validation_loss is None else f", held out {progress.validation_loss:.3f}"
        left = progress.seconds / progress.step * (progress.num_steps - progress.step)
        console.print(
            f"step {progress.step} of {progress.num_steps}: loss {progress.train_loss:.3f}{held_out}, {left:.0f} s left"
        )

    train_model(output, settings=settings, progress=report)
    console.print(f"saved {output}; try: batchmill run examples/prompts.jsonl -o results.jsonl --model {output}")
