"""Workers of two devices under one supervisor: real processes, of which some are killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from uuid import UUID

import psutil
import pytest
from sqlalchemy import text

from models.claims import Claims
from models.records import WorkerRecord
from models.status import Status
from tests.chaos.slow_engine import HANG_FILE, STEP_SECONDS
from tests.faults import launch
from tests.freezing import freeze
from tests.integration.worker.conftest import Station
from tests.waiting import wait_until

EXIT_CONFIGURATION = 78
SECONDS = 60.0
ENDLESS = 1_000_000  # tokens
DEVICES = ["cpu:0", "cpu:1"]


class Crew:
    """A supervisor of two workers, none of which anybody else can take for dead: a lease lasts for an hour."""

    def __init__(self, station: Station) -> None:
        self.station, self.claims = station, Claims(station.database)
        self._seen: list[psutil.Process] = []
        settings = {
            "DATABASE_URL": station.database_url,
            "REDIS_URL": station.redis_url,
            "BATCHMILL_STATE_DIR": str(station.folder / "state"),
            "BATCHMILL_MODEL": "noop",
            "BATCHMILL_ROWS": "1",
            "BATCHMILL_LEASE_SECONDS": "3600",
            "BATCHMILL_GRACE_SECONDS": "0",
            STEP_SECONDS: "0.01",
            HANG_FILE: str(station.folder / "hang"),
        }
        with (station.folder / "worker.log").open("ab") as log:
            self.supervisor = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.worker.slow_supervisor", "worker", "--devices", "cpu,cpu"],
                env=launch.environment(**settings),
                cwd=station.folder,
                stdout=log,
                stderr=log,
            )

    def workers(self) -> dict[str, WorkerRecord]:
        """Those of the table, by device."""
        return {worker.device: worker for worker in self.station.store.workers()}

    def wait_for_workers(self, is_so: Callable[[dict[str, WorkerRecord]], bool]) -> dict[str, WorkerRecord]:
        """Wait until both are there, and so."""

        def are_so() -> bool:
            assert self.supervisor.poll() is None, self.station.log()
            return sorted(self.workers()) == DEVICES and is_so(self.workers())

        wait_until(are_so, SECONDS)
        self._seen = [psutil.Process(worker.pid) for worker in self.workers().values()]
        return self.workers()

    def processes(self) -> list[psutil.Process]:
        """Of the workers last waited for, those that still run."""
        return [process for process in self._seen if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]

    def send(self, max_tokens: int) -> UUID:
        """One job, in a message of its own."""
        return UUID(self.station.send(kwargs={"prompt": "hello", "max_tokens": max_tokens}).id)

    def held(self, worker: WorkerRecord) -> set[tuple[UUID, int]]:
        """Jobs of a worker, each with its attempt."""
        return self.claims.held(worker.id)

    def jobs(self, ids: set[UUID]) -> dict[UUID, tuple[Status, int, int]]:
        """Status, attempt and suspicion of each."""
        return {job.id: (job.status, job.attempt, job.suspicion) for job in self.station.store.jobs(list(ids))}

    def close(self) -> None:
        self.supervisor.kill()
        self.supervisor.wait()
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.fixture
def crew(sqlite_station: Station) -> Iterator[Crew]:
    crew = Crew(sqlite_station)
    yield crew
    crew.close()


def test_killed_worker_is_back_in_its_seat_and_its_crash_is_confirmed(crew: Crew) -> None:
    """The hour's lease of the dead one tells nobody anything. What the other one decodes goes on, and SIGTERM has both
    give back what they hold, without blame."""
    before = crew.wait_for_workers(lambda _: True)
    short = {crew.send(max_tokens=2) for _ in range(4)}
    wait_until(lambda: crew.station.store.statuses(list(short)) == dict.fromkeys(short, Status.COMPLETED), SECONDS)
    endless = {crew.send(ENDLESS) for _ in range(8)}
    wait_until(lambda: all(map(crew.held, before.values())), SECONDS)
    victim, other = before["cpu:0"], before["cpu:1"]
    assert victim.slot != other.slot
    assert sorted(path.name for path in (crew.station.folder / "state" / "devices").iterdir()) == ["cpu-0", "cpu-1"]
    freeze(crew.station.database_url, victim.pid)  # it claims no more, so that what it holds is known
    lost, kept = crew.held(victim), crew.held(other)

    os.kill(victim.pid, signal.SIGKILL)

    after = crew.wait_for_workers(lambda now: now["cpu:0"].id != victim.id)
    assert after["cpu:0"].slot == victim.slot
    assert after["cpu:1"].id == other.id
    assert {suspicion for _, _, suspicion in crew.jobs({id for id, _ in lost}).values()} == {1}
    assert crew.jobs({id for id, _ in kept}) == {id: (Status.IN_PROGRESS, attempt, 0) for id, attempt in kept}

    crew.supervisor.send_signal(signal.SIGTERM)

    assert crew.supervisor.wait(SECONDS) == 0
    assert crew.processes() == []
    assert crew.workers() == {}
    jobs = crew.jobs(endless)
    assert {status for status, _, _ in jobs.values()} == {Status.QUEUED}
    assert {id for id, (_, _, suspicion) in jobs.items() if suspicion} == {id for id, _ in lost}


def test_workers_drain_when_their_supervisor_is_killed(crew: Crew) -> None:
    workers = crew.wait_for_workers(lambda _: True)
    endless = {crew.send(ENDLESS) for _ in range(8)}
    wait_until(lambda: all(map(crew.held, workers.values())), SECONDS)

    crew.supervisor.kill()

    wait_until(lambda: not crew.processes(), SECONDS)
    assert crew.workers() == {}
    assert {(status, suspicion) for status, _, suspicion in crew.jobs(endless).values()} == {(Status.QUEUED, 0)}


def test_workers_that_cannot_start_are_not_started_again(sqlite_station: Station) -> None:
    with sqlite_station.database.transaction() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    crew = Crew(sqlite_station)
    try:
        assert crew.supervisor.wait(SECONDS) == EXIT_CONFIGURATION
    finally:
        crew.close()
    said = sqlite_station.log()
    for device in DEVICES:
        assert said.count(f"worker on {device} started") == 1
        assert said.count(f"worker on {device} ended with status 78 and is not started again") == 1
    assert said.count("run `batchmill db upgrade`") == 2
