"""The decode engine: requests in, results out. Usable alone; knows no queue, database, HTTP or environment."""

from importlib import import_module
from typing import TYPE_CHECKING

from worker.engine.types import Completion, Delta, EngineError, Output, Request, RowError, SamplingParams

if TYPE_CHECKING:
    from worker.engine.engine import Engine

__all__ = ["Completion", "Delta", "Engine", "EngineError", "Output", "Request", "RowError", "SamplingParams"]


def __getattr__(name: str) -> object:
    """Import the engine itself on first use, so that its plain types cost no torch."""
    if name == "Engine":
        return import_module("worker.engine.engine").Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
