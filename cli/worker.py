"""`batchmill worker`: Celery's worker with our pool, on the queue of one model."""

import importlib
import os

from cli.children import EXIT_CONFIGURATION, watch_parent
from cli.model import has_model
from models.settings import Settings


def run_worker(settings: Settings, *, loglevel: str) -> int:
    """Run until told to stop, then exit: with status 78 where starting again cannot help."""
    watch_parent()
    if not has_model(settings):
        return EXIT_CONFIGURATION
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    from worker.celery_app import create_app

    app = create_app(settings)
    app.set_current()
    name = f"{settings.model_name}-{os.getpid()}@%h"
    # As Celery.start() does, which would swallow the exit status.
    command = importlib.import_module("celery.bin.celery").celery
    command.params[0].default = app
    command.main(args=["worker", "--loglevel", loglevel, "--hostname", name, "--without-gossip"])
    return 0
