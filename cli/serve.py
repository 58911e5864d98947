"""`batchmill serve` and `batchmill api`: the HTTP service, alone or with all it needs on one machine."""

import fcntl
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pydantic import SecretStr

from cli.children import WorkerProcess, WorkerUnhealthy
from cli.db import open_upgraded
from cli.embedded import check_redis, embedded_redis
from cli.model import find_model
from cli.signals import interrupts
from models import logs
from models.errors import BatchmillError, ConfigurationError
from models.settings import REDIS_URL_FILE, Settings

LOOK_SECONDS = 1.0
REST_SECONDS = 660.0  # of an unhealthy worker: the crashes it was found so for are past then
SHUTDOWN_SECONDS = 5  # a client that waits for its answer must not hold the service up for minutes


def serve_api(settings: Settings, *, host: str, port: int) -> None:
    """Run the HTTP service until told to stop. The schema must be this version's: `batchmill db upgrade`."""
    import uvicorn

    from api.app import create_app
    from api.auth import refuse_unsafe_bind
    from api.http_protocol import LimitedHead
    from models.blobs import Blobs
    from models.database import REQUEST_STATEMENT_SECONDS, Database
    from models.key_store import KeyStore

    logs.set_up(settings)
    Blobs(settings.blobs).prepare()
    database = Database(settings.database, statement_timeout_seconds=REQUEST_STATEMENT_SECONDS)
    refuse_unsafe_bind(settings, host, KeyStore(database).exists)
    with interrupts(), suppress(KeyboardInterrupt):  # uvicorn raises the signal again once it has shut down
        app = create_app(settings, database)
        gc.freeze()  # what is there by now stays; full collections that walked it made the slowest answers slow
        uvicorn.run(
            app,
            host=host,
            port=port,
            http=LimitedHead,
            proxy_headers=False,  # X-Forwarded-For is what a caller says, and nothing here goes by it
            log_config=None,
            access_log=False,  # a tenth of what an accepted job costs; errors are logged with their request id
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )


def serve_all(settings: Settings, *, host: str, port: int) -> int:
    """Run Redis (unless REDIS_URL is set), a worker and the HTTP service; stop them together."""
    find_model(settings)
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    failures: list[BatchmillError] = []
    with interrupts(), suppress(KeyboardInterrupt), ExitStack() as stack:
        stack.enter_context(_alone(settings.state_dir))
        if settings.redis_url is None:
            url = stack.enter_context(embedded_redis(settings.state_dir / "redis", keep=True))
            stack.enter_context(_noted(settings.state_dir / REDIS_URL_FILE, url))
            settings = settings.model_copy(update={"redis_url": SecretStr(url)})
        else:
            check_redis(settings.broker)
        how_protected = _check_door(settings, host)
        worker = WorkerProcess(
            settings,
            settings.state_dir / "worker.log",
            on_ready=_say,
        )
        stack.callback(worker.stop)
        worker.start()
        _look_after(worker, failures)
        _say_where(settings, host, port, how_protected)
        serve_api(settings, host=host, port=port)
    if failures:
        raise failures[0]
    return 0


def _check_door(settings: Settings, host: str) -> str:
    """Upgrade the database and say how the service is protected. Raises ConfigurationError before anything starts."""
    from api.auth import protection, refuse_unsafe_bind
    from models.key_store import KeyStore

    database = open_upgraded(settings.database)
    try:
        keys = KeyStore(database)
        refuse_unsafe_bind(settings, host, keys.exists)
        return protection(settings, keys.exists())
    finally:
        database.dispose()


def _look_after(worker: WorkerProcess, failures: list[BatchmillError]) -> None:
    """Keep the worker alive from a thread; what cannot be mended ends the service with its sentence. An unhealthy
    worker rests, and what is stored is served meanwhile."""

    def look() -> None:
        try:
            while not ended.wait(LOOK_SECONDS):
                try:
                    worker.look_after(progressed=True)
                except WorkerUnhealthy as error:
                    _say(f"{error}; it is started again in {REST_SECONDS / 60:.0f} minutes")
                    ended.wait(REST_SECONDS)
                    worker.start()
        except BatchmillError as error:
            failures.append(error)
            os.kill(os.getpid(), signal.SIGTERM)

    ended = threading.Event()
    threading.Thread(target=look, name="worker-watch", daemon=True).start()


def _say_where(settings: Settings, host: str, port: int, how_protected: str) -> None:
    _say(f"model {settings.model_name} on http://{host}:{port}/v1")
    _say(how_protected)
    _say(f"state in {settings.state_dir}, the worker's log in {settings.state_dir / 'worker.log'}")


def _say(line: str) -> None:
    sys.stderr.write(f"batchmill: {line}\n")


@contextmanager
def _alone(state_dir: Path) -> Iterator[None]:
    """One service a state directory."""
    with (state_dir / "serve.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(f"another batchmill serve already runs from {state_dir}") from None
        yield


@contextmanager
def _noted(path: Path, url: str) -> Iterator[None]:
    """Leave the Redis URL where other commands and services of this user find it; it holds a password."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(url + "\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
