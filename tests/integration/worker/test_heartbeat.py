"""The lease's threads, with a clock of the test's own: what ends rows, and what does not wait for whom."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest
from sqlalchemy import text

from models.claims import Claims
from models.database import Database
from models.ids import uuid7
from models.records import NewJob, WorkerRecord
from models.status import Status
from tests.integration.worker.test_keeper import EndlessEngine
from tests.integration.worker.workbench import Workbench
from tests.waiting import wait_until
from worker.deliveries import Delivery
from worker.heartbeat import Heartbeat, Holding, Watchdog
from worker.noop_engine import NoopEngine

LEASE_SECONDS = 1000.0


class Clock:
    """It can be set forward."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.offset


class Bench(Workbench):
    """With a heartbeat and a watchdog, as the mill has them, on a connection of their own."""

    def __init__(self, database: Database, url: str, engine: NoopEngine) -> None:
        super().__init__(database, engine)
        self.apart, self.clock = Database(url, pool_size=1, busy_timeout_seconds=60), Clock()
        self.lease.claims, self.lease.clock, self.lease.lease_seconds = Claims(self.apart), self.clock, LEASE_SECONDS
        holding = Holding(self.decoder, self.ledger, lambda _: None)
        self.heartbeat = Heartbeat(self.lease, holding, on_drain=lambda: None, on_crash=self._crash)
        self.watchdog = Watchdog(self.heartbeat, self.lease, holding, hang_seconds=3600, on_crash=self._crash)
        self._parts = (*self._parts, self.heartbeat, self.watchdog)

    def live(self) -> WorkerRecord:
        """The one worker with a lease."""
        [worker] = self.store.workers()
        return worker


@pytest.fixture
def bench(database: Database, database_url: str) -> Iterator[Bench]:
    bench = Bench(database, database_url, EndlessEngine(rows=4))
    with bench:
        yield bench
    bench.apart.dispose()


@contextmanager
def heartbeats_wait(database_url: str) -> Iterator[None]:
    """For the length of the block no heartbeat is answered, and none is refused."""
    database = Database(database_url, pool_size=1)
    with database.transaction() as connection:  # on SQLite nobody else writes meanwhile
        if database.dialect == "postgresql":
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            connection.execute(text("SELECT id FROM workers FOR UPDATE"))
        yield
    database.dispose()


def test_rows_end_by_the_workers_own_clock_while_a_heartbeat_is_not_answered(bench: Bench, database_url: str) -> None:
    """F4. The database cannot say that the lease is over, and others may soon take the rows."""
    first = bench.live()
    [job_id] = bench.submit({"prompt": "a"})
    wait_until(lambda: bench.engine.num_live == 1)
    with heartbeats_wait(database_url):
        seen = bench.live()
        bench.clock.offset += LEASE_SECONDS * 0.95
        wait_until(lambda: bench.engine.num_live == 0)
        assert bench.live() == seen  # to the database the lease lasts still, and nobody renewed it

    wait_until(lambda: bench.lease.worker_id != first.id)
    wait_until(lambda: bench.store.statuses([job_id]) == {job_id: Status.QUEUED})
    wait_until(lambda: [worker.id for worker in bench.store.workers()] == [bench.lease.worker_id])
    assert_runs(bench, job_id)


def test_rows_go_on_while_the_lease_lasts(bench: Bench, database_url: str) -> None:
    first = bench.live()
    [job_id] = bench.submit({"prompt": "a"})
    wait_until(lambda: bench.engine.num_live == 1)
    with heartbeats_wait(database_url):
        bench.clock.offset += LEASE_SECONDS * 0.8
        looked = count_looks(bench)
        wait_until(lambda: looked() >= 3)
        assert bench.engine.num_live == 1

    wait_until(lambda: bench.live().heartbeat_at != first.heartbeat_at)
    assert (bench.lease.worker_id, bench.store.statuses([job_id])) == (first.id, {job_id: Status.IN_PROGRESS})


def test_lease_that_others_took_begins_anew(bench: Bench, database: Database) -> None:
    first = bench.live()
    [job_id] = bench.submit({"prompt": "a"})
    wait_until(lambda: bench.engine.num_live == 1)
    with database.transaction() as connection:
        connection.execute(text("UPDATE workers SET heartbeat_at = started_at, lease_until = started_at"))

    bench.claims.reap()

    wait_until(lambda: bench.lease.worker_id != first.id)
    assert_runs(bench, job_id)


def test_row_whose_claim_was_never_answered_is_given_back(bench: Bench) -> None:
    """The claim is committed, and the worker does not know of it: nobody else could ever take the row."""
    new = NewJob(uuid7(), "noop", "/v1/completions", {"prompt": "a", "seed": 0})
    bench.store.submit([new])
    assert bench.claims.claim(bench.lease.worker_id, [new.id])

    wait_until(lambda: bench.store.rows([new.id])[0].attempt == 2)  # claimed once more, by one who knows of it

    assert bench.store.rows([new.id])[0].suspicion == 0


def test_slow_sweep_delays_no_heartbeat(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A keeper with a million rows to expire, say."""
    sweeps = threading.Semaphore(0)
    monkeypatch.setattr(bench.keeper, "_sweep", sweeps.acquire)
    before = bench.live().heartbeat_at
    wait_until(lambda: bench.live().heartbeat_at != before)
    between = bench.live().heartbeat_at
    wait_until(lambda: bench.live().heartbeat_at != between)
    sweeps.release(1000)


def assert_runs(bench: Bench, job_id: UUID) -> None:
    """The new incarnation claims the row like any other."""
    bench.feeder.deliver(Delivery([job_id]))
    wait_until(lambda: bench.store.rows([job_id])[0].owner == bench.lease.worker_id)
    wait_until(lambda: bench.engine.num_live == 1)


def count_looks(bench: Bench) -> Callable[[], int]:
    """Counts the watchdog's looks from now on."""
    number, look = 0, bench.watchdog._look

    def counted() -> None:
        nonlocal number
        look()
        number += 1

    bench.watchdog._look = counted  # type: ignore[method-assign]
    return lambda: number
