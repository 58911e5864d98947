"""What an interrupted run goes on from: weights, optimiser and history at its last validation, in one file."""

import hashlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from worker.trainer.data import Dataset
from worker.trainer.loop import Progress, Run
from worker.trainer.settings import TrainSettings


def fingerprint(dataset: Dataset, settings: TrainSettings) -> str:
    """Name what a run depends on: another text or another setting is another run."""
    return hashlib.sha256(repr((settings, dataset)).encode()).hexdigest()


def save_run(path: Path, run: Run, *, of: str) -> None:
    """Write the run's state; a kill leaves the former file or the new one, never half of one."""
    state = {
        "of": of,
        "weights": [tensor.detach() for tensor in run.trained.weights.tensors()],
        "optimizer": run.optimizer.state_dict(),
        "history": [asdict(progress) for progress in run.trained.history],
    }
    unfinished = path.with_suffix(".unfinished")
    torch.save(state, unfinished)
    os.replace(unfinished, path)


def restore_run(path: Path, run: Run, *, of: str) -> None:
    """Bring a fresh run to the saved state. Raises ValueError for the state of another run."""
    state: dict[str, Any] = torch.load(path, weights_only=True)
    if state["of"] != of:
        raise ValueError(f"{path} belongs to a run on other text or with other settings; start anew with --fresh")
    with torch.no_grad():
        for tensor, saved in zip(run.trained.weights.tensors(), state["weights"], strict=True):
            tensor.copy_(saved)
    run.optimizer.load_state_dict(state["optimizer"])
    run.trained.history.extend(Progress(**progress) for progress in state["history"])
