"""Draws the loss curve. matplotlib is a developer's extra: where it is missing there is no picture."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from worker.trainer.loop import Progress

_SIZE_INCHES = (7.0, 3.8)
_DOTS_PER_INCH = 110


def draw_losses(path: Path, history: Sequence[Progress]) -> bool:
    """Write a PNG of training and validation loss over the steps; False where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = [progress.step for progress in history]
    axes.plot(steps, [progress.train_loss for progress in history], label="training", color="#1f6feb")
    held_out = [
        (progress.step, progress.validation_loss) for progress in history if progress.validation_loss is not None
    ]
    if held_out:
        axes.plot(*zip(*held_out, strict=True), label="held out", color="#d1622b")
    axes.set(xlabel="step", ylabel="loss, nats per token", title="Loss", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return True
