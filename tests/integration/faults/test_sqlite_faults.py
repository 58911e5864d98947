"""SQLite behind a writer that stands still, and with a library that has a known bug."""

import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from models.database import BUSY_TIMEOUT_SECONDS, Database
from models.settings import Settings
from models.status import Status
from models.store import Store
from tests.integration.faults.conftest import JOB, service
from tests.integration.faults.held_engine import HeldEngine
from tests.integration.worker.workbench import Workbench
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    database = Database(sqlite_url, busy_timeout_seconds=0.2)
    yield database
    database.dispose()


@contextmanager
def paused_writer(url: str) -> Iterator[None]:
    """Another process holds the lock for the length of the block, stopped; then it commits."""
    command = [sys.executable, "-m", "tests.integration.faults.lock_holder", url]
    with subprocess.Popen(command, cwd=ROOT) as process:
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)
    assert process.returncode == 0


def test_paused_writer_makes_the_others_busy_and_loses_nothing(
    database: Database, sqlite_url: str, settings: Settings
) -> None:
    """F22: told after the time that a write waits (5 s unless set); the worker keeps its results and writes them."""
    engine = HeldEngine(rows=8)
    with service(settings, database) as client, Workbench(database, engine) as bench:
        ids = bench.submit(*[{"prompt": "a"}] * 8)
        wait_until(lambda: engine.num_live == 8)
        with paused_writer(sqlite_url):
            busy = client.post("/v1/completions", json=JOB)
            reading = client.get("/v1/models")
            engine.go_on.set()
            wait_until(lambda: engine.num_live == 0)
            assert set(bench.store.statuses(ids).values()) == {Status.IN_PROGRESS}
        wait_until(lambda: set(bench.store.statuses(ids).values()) == {Status.COMPLETED})
        after = client.post("/v1/completions", json=JOB)

        assert (busy.status_code, busy.json()["error"]["code"]) == (503, "database_busy")
        assert busy.headers["retry-after"] == "2"
        assert (reading.status_code, after.status_code) == (200, 200)
        assert {job.attempt for job in bench.store.jobs(ids)} == {1}


def test_a_write_waits_five_seconds() -> None:
    assert BUSY_TIMEOUT_SECONDS == 5


@pytest.mark.parametrize(("fixed", "is_told"), [((3, 0, 0), False), ((99, 0, 0), True)])
def test_library_with_the_wal_bug_is_told_of(
    database: Database,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    fixed: tuple[int, int, int],
    is_told: bool,
) -> None:
    """Once when a service starts; a worker says it by the same method (worker/mill.py)."""
    monkeypatch.setattr("models.engines.FIXED_SQLITE", fixed)
    with caplog.at_level(logging.WARNING), service(settings, database) as client:
        client.get("/health/ready")

    assert caplog.text.count("WAL-reset bug") == int(is_told)
    assert Store(database).queue_depth() == {}
