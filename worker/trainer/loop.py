"""The training loop: AdamW, warm-up and cosine, clipping, a validation loss now and then. Writes no file."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from worker.engine.spec import Spec
from worker.engine.weights import Weights
from worker.trainer.data import Dataset, endless_batches
from worker.trainer.network import batch_loss, make_spec, mean_loss, trainable_weights
from worker.trainer.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands. Losses are nats per token."""

    step: int
    num_steps: int
    num_tokens: int  # trained on so far
    seconds: float
    train_loss: float  # mean since the last report
    validation_loss: float | None  # None: nothing is held out


@dataclass(frozen=True, slots=True)
class Trained:
    """A decoder and how it got there."""

    spec: Spec
    weights: Weights
    history: list[Progress]


@dataclass(frozen=True, slots=True)
class Run:
    """A decoder in training, and what its next step depends on."""

    trained: Trained
    optimizer: torch.optim.Optimizer


def fit(
    dataset: Dataset,
    settings: TrainSettings,
    on_validation: Callable[[Run], None],
    restore: Callable[[Run], None] | None = None,
) -> Trained:
    """Train, reporting at each validation: from scratch, or from where `restore` brings the fresh run.

    The same settings, data, torch and processor give the same weights, bit for bit, interrupted or not.
    """
    spec = make_spec(settings, vocab_size=dataset.end_id + 1, end_id=dataset.end_id)
    trained = Trained(spec, trainable_weights(spec, settings.seed), [])
    run = Run(trained, _optimizer(trained.weights, settings))
    if restore is not None:
        restore(run)
    for progress in _steps(run, dataset, settings):
        trained.history.append(progress)
        on_validation(run)
    return trained


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Rise linearly over the warm-up, then fall along half a cosine to the final ratio; steps count from 1."""
    if step <= settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    passed = (step - settings.warmup_steps) / max(1, settings.num_steps - settings.warmup_steps)
    floor = settings.final_learning_rate_ratio
    return settings.learning_rate * (floor + (1 - floor) * (1 + math.cos(math.pi * passed)) / 2)


def _steps(run: Run, dataset: Dataset, settings: TrainSettings) -> Iterator[Progress]:
    """Take every step that is left; yield at each validation."""
    trained, optimizer = run.trained, run.optimizer
    last = trained.history[-1] if trained.history else None
    done, num_tokens, seconds = (last.step, last.num_tokens, last.seconds) if last else (0, 0, 0.0)
    batches = islice(endless_batches(dataset.train, batch_tokens=settings.batch_tokens, seed=settings.seed), done, None)
    started = time.monotonic() - seconds
    loss_sum, loss_count = 0.0, 0
    for step in range(done + 1, settings.num_steps + 1):
        loss, count = batch_loss(trained.weights, trained.spec, next(batches))
        _update(optimizer, loss / count, learning_rate(step, settings), settings.max_grad_norm)
        loss_sum, loss_count = loss_sum + loss.item(), loss_count + count
        if step % settings.validation_interval_steps == 0 or step == settings.num_steps:
            num_tokens += loss_count
            validation_loss = mean_loss(trained.weights, trained.spec, dataset.validation)
            seconds = time.monotonic() - started
            yield Progress(step, settings.num_steps, num_tokens, seconds, loss_sum / loss_count, validation_loss)
            loss_sum, loss_count = 0.0, 0


def _update(optimizer: torch.optim.Optimizer, loss: torch.Tensor, rate: float, max_grad_norm: float) -> None:
    """One step down the gradient, its length clipped."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for group in optimizer.param_groups:
        group["lr"] = rate
    torch.nn.utils.clip_grad_norm_(
        [tensor for group in optimizer.param_groups for tensor in group["params"]], max_grad_norm
    )
    optimizer.step()


def _optimizer(weights: Weights, settings: TrainSettings) -> torch.optim.AdamW:
    """Decay the matrices, not the gains of the norms."""
    matrices = [tensor for tensor in weights.tensors() if tensor.dim() > 1]
    gains = [tensor for tensor in weights.tensors() if tensor.dim() == 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": gains, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas)
