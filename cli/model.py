"""A first look at the model folder: what is plainly wrong is said before anything is started. Imports no torch."""

from models.errors import ConfigurationError
from models.settings import NOOP, Settings


def check_model(settings: Settings) -> None:
    """Raise ConfigurationError where the folder is missing or its config.json is not one we can run."""
    if settings.model == NOOP:
        return
    from worker.engine.families import load_spec
    from worker.engine.types import EngineError

    try:
        load_spec(settings.model_folder)
    except EngineError as error:
        raise ConfigurationError(str(error)) from error
