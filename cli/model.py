"""A first look at the model: what is plainly wrong is said before anything is started. Imports no torch."""

import sys
from pathlib import Path

from models.errors import ConfigurationError
from models.settings import NOOP, Settings


def find_model(settings: Settings) -> Path | None:
    """Give the model's folder, downloaded first where the hub has it; None for the engine that needs none.

    Raises ConfigurationError where there is no such model or its configuration is not one we can run.
    """
    if settings.model == NOOP:
        return None
    from worker.engine.families import load_spec
    from worker.engine.folders import find_folder, is_hub_id
    from worker.engine.types import EngineError

    path = settings.model_path
    if is_hub_id(path):
        sys.stderr.write(f"batchmill: {path} is no folder here; taking it from the Hugging Face hub or its cache\n")
    try:
        folder = find_folder(path)
        load_spec(folder)
    except EngineError as error:
        raise ConfigurationError(str(error)) from error
    return folder


def has_model(settings: Settings) -> bool:
    """Find the model; where there is none that we can run, say why on standard error."""
    try:
        find_model(settings)
    except ConfigurationError as error:
        sys.stderr.write(f"batchmill: {error.message}\n")
        return False
    return True


def is_cached(model_id: str) -> bool:
    """Whether an earlier download of a hub's model is there, so that a start need not wait for one."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model_id, "config.json"), str)
