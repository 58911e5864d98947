"""The trainer of the demo model and of small experiments. Not a training framework.

It reads text files, or else Python's own documentation, learns a vocabulary and trains the engine's decoder on it.
Names come on first use, so that the settings alone cost no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from worker.trainer.settings import TrainSettings

if TYPE_CHECKING:
    from worker.trainer.loop import Progress
    from worker.trainer.report import Figures
    from worker.trainer.training import train, train_on_files

__all__ = ["Figures", "Progress", "TrainSettings", "train", "train_on_files"]

_HOMES = {"Figures": "report", "Progress": "loop", "train": "training", "train_on_files": "training"}


def __getattr__(name: str) -> object:
    """Import what needs torch when it is asked for."""
    if name in _HOMES:
        return getattr(import_module(f"worker.trainer.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
