"""Workers as processes, against a real Redis and a real database."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from models.database import Database
from models.store import Store
from tests.freezing import freeze
from tests.waiting import wait_until

START_SECONDS = 60.0


class Station:
    """A database, a Redis, and the workers started on them."""

    def __init__(self, database_url: str, redis_url: str, folder: Path) -> None:
        self.database_url, self.redis_url, self.folder = database_url, redis_url, folder
        self.database = Database(database_url)
        self.store = Store(self.database)
        self.app = Celery(
            "another service", broker=redis_url, backend=f"worker.result_backend:JobsBackend+{database_url}"
        )
        self.workers: list[subprocess.Popen[bytes]] = []

    def start_worker(
        self, *, model: str = "noop", module: str = "cli.main", **environment: str
    ) -> "subprocess.Popen[bytes]":
        """Start a worker and return once it has its lease."""
        before = {worker.pid for worker in self.store.workers()}
        process = self.launch_worker(model=model, module=module, **environment)

        def has_lease() -> bool:
            assert process.poll() is None, self.log()[-2000:]
            return bool({worker.pid for worker in self.store.workers()} - before)

        wait_until(has_lease, START_SECONDS)
        return process

    def launch_worker(
        self, *, model: str = "noop", module: str = "cli.main", **environment: str
    ) -> "subprocess.Popen[bytes]":
        """Start a worker and do not wait."""
        log = (self.folder / "worker.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", module, "worker"],
            env=os.environ
            | {
                "DATABASE_URL": self.database_url,
                "REDIS_URL": self.redis_url,
                "BATCHMILL_STATE_DIR": str(self.folder / "state"),
                "BATCHMILL_MODEL": model,
                "BATCHMILL_THREADS": "1",
            }
            | environment,
            stdout=log,
            stderr=log,
        )
        log.close()
        self.workers.append(process)
        return process

    def send(self, queue: str = "generate.noop", **options: Any) -> Any:  # noqa: ANN401 (Celery's AsyncResult)
        """Send one inline job as another service would."""
        kwargs = options.pop("kwargs", {"prompt": "hello", "max_tokens": 3})
        return self.app.send_task("generate", kwargs=kwargs, queue=queue, **options)

    def freeze(self, worker: "subprocess.Popen[bytes]") -> None:
        """Stop a worker, so that the others can go on."""
        freeze(self.database_url, worker.pid)

    def log(self) -> str:
        """What the workers wrote."""
        return (self.folder / "worker.log").read_text()

    def close(self) -> None:
        """End everything."""
        for process in self.workers:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        self.app.backend.store.database.dispose()
        self.app.close()
        self.database.dispose()


@pytest.fixture
def station(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Station]:
    """A station on each database in turn."""
    station = Station(database_url, redis_url, tmp_path)
    yield station
    station.close()


@pytest.fixture
def sqlite_station(sqlite_url: str, redis_url: str, tmp_path: Path) -> Iterator[Station]:
    """A station on SQLite, where the database is not what is tested."""
    station = Station(sqlite_url, redis_url, tmp_path)
    yield station
    station.close()
