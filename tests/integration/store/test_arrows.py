"""Each arrow of status.py is taken by the real store, and nothing the store does takes another one."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from models.claims import Claims
from models.database import Database
from models.ids import uuid7
from models.records import ClaimedJob, Outcome
from models.status import ARROWS, Arrow, Status, is_allowed
from models.store import Store
from models.suspects import Level
from tests.integration.store.making import (
    LONG,
    REFUSAL,
    SHORT,
    completed,
    failed,
    new_job,
    new_worker,
)

PAST = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass
class Bench:
    """A store, and one job of interest with the worker that may hold it."""

    store: Store
    claims: Claims
    worker_id: UUID
    job_id: UUID
    claimed: ClaimedJob | None = None

    def status(self) -> Status | None:
        return self.store.statuses([self.job_id]).get(self.job_id)

    def held(self) -> ClaimedJob:
        return self.claimed or ClaimedJob(self.job_id, 1, "", "", {}, 4, None, 0, "")


def new_bench(database: Database) -> Bench:
    claims = Claims(database, max_attempts=1)
    return Bench(Store(database), claims, new_worker(claims, slot="here"), uuid7())


@pytest.fixture
def bench(database: Database) -> Bench:
    return new_bench(database)


# What brings a new job into each status.
def queue(bench: Bench) -> None:
    bench.store.submit([new_job(id=bench.job_id)])


def start(bench: Bench) -> None:
    queue(bench)
    (bench.claimed,) = bench.claims.claim(bench.worker_id, [bench.job_id])


def complete(bench: Bench) -> None:
    start(bench)
    bench.claims.commit(bench.worker_id, [completed(bench.held())])


def refuse(bench: Bench) -> None:
    bench.store.submit([new_job(id=bench.job_id, error=REFUSAL)])


def cancel_queued(bench: Bench) -> None:
    queue(bench)
    bench.store.cancel(bench.job_id)


def expire_queued(bench: Bench) -> None:
    bench.store.submit([new_job(id=bench.job_id, deadline=PAST)])
    bench.claims.expire_queued(10)


REACH: dict[Status | None, Callable[[Bench], None]] = {
    None: lambda bench: None,
    Status.QUEUED: queue,
    Status.IN_PROGRESS: start,
    Status.COMPLETED: complete,
    Status.FAILED: refuse,
    Status.CANCELLED: cancel_queued,
    Status.EXPIRED: expire_queued,
}


# What may happen to a job, whatever its status.
def submitted(bench: Bench) -> None:
    bench.store.submit([new_job(id=bench.job_id)])


def submitted_refused(bench: Bench) -> None:
    bench.store.submit([new_job(id=bench.job_id, error=REFUSAL)])


def claimed(bench: Bench) -> None:
    bench.claims.claim(bench.worker_id, [bench.job_id])


def claimed_inline(bench: Bench) -> None:
    bench.claims.claim_inline(bench.worker_id, [new_job(id=bench.job_id)])


def committed(status: Status) -> Callable[[Bench], None]:
    def happen(bench: Bench) -> None:
        bench.claims.commit(bench.worker_id, [Outcome(bench.job_id, bench.held().attempt, status)])

    happen.__name__ = f"committed_{status}"
    return happen


def committed_failed(bench: Bench) -> None:
    bench.claims.commit(bench.worker_id, [failed(bench.held())])


def released(bench: Bench) -> None:
    bench.claims.release(bench.worker_id)


def cancelled(bench: Bench) -> None:
    bench.store.cancel(bench.job_id)


def expired(bench: Bench) -> None:
    bench.claims.expire_queued(10)


def lost(bench: Bench) -> None:
    bench.claims.heartbeat(bench.worker_id, lease_seconds=SHORT)
    time.sleep(2 * SHORT)
    bench.claims.reap()


def crashed(bench: Bench) -> None:
    bench.claims.confirm_crash("here", successor=uuid7())


def cancelled_and_lost(bench: Bench) -> None:
    cancelled(bench)
    lost(bench)


EVENTS = [
    submitted,
    submitted_refused,
    claimed,
    claimed_inline,
    *(committed(status) for status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.EXPIRED)),
    released,
    cancelled,
    expired,
    lost,
    crashed,
    cancelled_and_lost,
]


@pytest.mark.parametrize("begin", REACH, ids=str)
def test_whatever_happens_no_forbidden_arrow_is_taken(database: Database, begin: Status | None) -> None:
    for event in EVENTS:
        bench = new_bench(database)
        REACH[begin](bench)
        assert bench.status() == begin

        event(bench)

        end = bench.status()
        path_exists = end == begin or (end is not None and is_allowed(begin, end))
        # A new inline job is stored, then claimed: two arrows in one transaction.
        assert path_exists or (begin, event, end) == (None, claimed_inline, Status.IN_PROGRESS), event
        bench.claims.deregister(bench.worker_id)


def late(bench: Bench) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=0.2)
    bench.store.submit([new_job(id=bench.job_id, deadline=deadline)])
    (bench.claimed,) = bench.claims.claim(bench.worker_id, [bench.job_id])
    while not bench.claims.to_stop(bench.worker_id):
        time.sleep(0.01)


def crashed_once_alone(bench: Bench) -> None:
    start(bench)
    for level in (Level.FEW, Level.ALONE, Level.ALONE):
        bench.claims.confirm_crash("here", successor=uuid7())
        bench.worker_id = new_worker(bench.claims, slot="here")
        (bench.claimed,) = bench.claims.claim(bench.worker_id, [bench.job_id], level=level)


def cancelled_while_running(bench: Bench) -> None:
    start(bench)
    cancelled(bench)


# How each arrow is taken: what comes before, what happens. In the order of ARROWS.
TAKEN: list[tuple[Callable[[Bench], None], Callable[[Bench], None]]] = [
    (REACH[None], submitted),
    (REACH[None], submitted_refused),
    (queue, claimed),
    (start, committed(Status.COMPLETED)),
    (start, committed_failed),
    (start, released),
    (start, lost),
    (start, crashed),
    (crashed_once_alone, crashed),
    (start, lost),
    (queue, cancelled),
    (cancelled_while_running, committed(Status.CANCELLED)),
    (cancelled_while_running, lost),
    (lambda bench: bench.store.submit([new_job(id=bench.job_id, deadline=PAST)]), expired),
    (late, committed(Status.EXPIRED)),
    (late, lost),
]
GENEROUS = {6, 7, 8}  # those that need more than one attempt


@pytest.mark.parametrize("number", range(len(ARROWS)), ids=lambda n: f"{ARROWS[n].start}-{ARROWS[n].end}-{n}")
def test_each_arrow_is_taken(bench: Bench, number: int) -> None:
    arrow: Arrow = ARROWS[number]
    bench.claims.max_attempts = 25 if number in GENEROUS else 1
    before, happens = TAKEN[number]
    before(bench)
    assert bench.status() == arrow.start
    assert bench.claims.heartbeat(bench.worker_id, lease_seconds=LONG)

    happens(bench)

    assert bench.status() == arrow.end
