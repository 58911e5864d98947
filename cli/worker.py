"""`batchmill worker`: Celery's worker with our pool, on the queue of one model."""

import os
import sys

from cli.children import EXIT_CONFIGURATION, watch_parent
from models.errors import ConfigurationError
from models.settings import NOOP, Settings


def run_worker(settings: Settings, *, loglevel: str) -> int:
    """Run until told to stop; returns the exit status: 78 where starting again cannot help."""
    watch_parent()
    try:
        if settings.model != NOOP:
            settings.model_folder  # noqa: B018 (a missing folder is reported before anything is loaded)
    except ConfigurationError as error:
        sys.stderr.write(f"batchmill: {error.message}\n")
        return EXIT_CONFIGURATION
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    from worker.celery_app import create_app

    app = create_app(settings)
    app.set_current()
    name = f"{settings.model_name}-{os.getpid()}@%h"
    try:
        app.worker_main(["worker", "--loglevel", loglevel, "--hostname", name, "--without-gossip"])
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return 0
