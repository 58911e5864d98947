"""Which engine decodes: a checkpoint's, or the one that does nothing. Torch is imported here, late."""

import os
from collections.abc import Mapping
from typing import Any, Protocol

from models.settings import NOOP, Settings
from worker.engine.types import Delta, Output, Request


class EngineInfo(Protocol):
    """What an engine says of itself."""

    @property
    def dtype(self) -> str: ...  # noqa: D102
    @property
    def device(self) -> str: ...  # noqa: D102
    @property
    def rows(self) -> int: ...  # noqa: D102
    @property
    def max_model_len(self) -> int: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    @property
    def fast_paths(self) -> dict[str, str]: ...  # noqa: D102


class DecodeEngine(Protocol):
    """What the worker needs of an engine; worker.engine.Engine and NoopEngine pass the same contract tests."""

    @property
    def info(self) -> EngineInfo: ...  # noqa: D102
    @property
    def num_free(self) -> int: ...  # noqa: D102
    @property
    def num_wanted(self) -> int: ...  # noqa: D102
    @property
    def num_live(self) -> int: ...  # noqa: D102
    @property
    def has_work(self) -> bool: ...  # noqa: D102

    def prepare(self, request: Request) -> Any:  # noqa: ANN401 (the engine's own sequence type)
        """Tokenise and check; safe beside step(). Raises RowError."""

    def add(self, sequence: Any) -> None:  # noqa: ANN401
        """Queue a prepared sequence for a slot."""

    def step(self) -> list[Output]:
        """Admit, decode one token per live row, retire; return what finished."""

    def take_deltas(self) -> list[Delta]:
        """Take what the last steps made certain of requests that stream."""

    def cancel(self, request_id: str) -> bool:
        """Drop a sequence, waiting or live."""

    def stats(self) -> dict[str, Any]:
        """Counters since the start."""


def load_engine(settings: Settings) -> DecodeEngine:
    """Load the model the settings name. Raises EngineError with one clear sentence."""
    rows = None if settings.rows == "auto" else settings.rows
    if settings.model == NOOP:
        from worker.noop_engine import NoopEngine

        return NoopEngine(rows=rows)
    from worker.engine import Engine

    return Engine.load(
        settings.model_path,
        rows=rows,
        max_model_len=settings.max_model_len,
        device=settings.device,
        dtype=settings.dtype,
        kv_dtype=settings.kv_dtype,
        num_threads=num_threads(settings),
        gpu_memory_fraction=settings.gpu_memory_fraction,
        tensor_parallel=settings.tensor_parallel,
        reproducible=settings.reproducible,
    )


def describe_engine(settings: Settings, info: EngineInfo) -> str:
    """One line for people: model, rows, number format, device, and which fast paths are on or why they are off."""
    parts = [f"model {settings.model_name}", f"{info.rows} rows"]
    return ", ".join([*parts, describe_device(settings, info.dtype, info.device, info.fast_paths)])


def describe_device(settings: Settings, dtype: str, device: str, fast_paths: Mapping[str, str]) -> str:
    """The part of that line that does not depend on the weights."""
    text = f"{dtype} on {device_name(settings, device)}"
    if device == "cpu":
        count = num_threads(settings)
        text += f", {count} thread{'s' * (count > 1)}"
    names: dict[str, list[str]] = {}  # attention and operations are compiled together, or not for one reason
    for name, how in fast_paths.items():
        names.setdefault(how, []).append(name)
    return "; ".join([text, *(f"{' and '.join(same)}: {how}" for how, same in names.items())])


def device_name(settings: Settings, device: str) -> str:
    """What to call the engine's device: to a process that sees one GPU of many it is always "cuda"."""
    return settings.device_name or device


def num_threads(settings: Settings) -> int:
    """CPU threads of the engine: as set, or what the machine can spare."""
    return settings.threads or spare_threads()


def spare_threads() -> int:
    """All cores but one, which is left to the queue's threads, Redis and the database.

    An engine that takes every core waits at each barrier for the thread that was pushed off its own: on two busy cores
    22 to 56 tokens/s with two threads, about 1,700 with one.
    """
    return max(len(os.sched_getaffinity(0)) - 1, 1) if hasattr(os, "sched_getaffinity") else 1
