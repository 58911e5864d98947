"""Leases, lost workers and confirmed crashes, on both databases."""

import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from models.claims import Claims
from models.database import Database
from models.ids import uuid7
from models.records import Reaped
from models.status import Status
from models.store import Store
from tests.integration.store.making import LONG, SHORT, completed, new_job, new_jobs, new_worker, submit_and_claim


def lose_lease(claims: Claims, worker_id: UUID) -> None:
    claims.heartbeat(worker_id, lease_seconds=SHORT)
    time.sleep(2 * SHORT)


def test_a_registered_worker_is_live(store: Store, claims: Claims) -> None:
    worker_id = new_worker(claims, slot="host/0")

    (worker,) = store.workers()

    assert (worker.id, worker.slot, worker.state, worker.rows) == (worker_id, "host/0", "ready", 8)
    assert worker.lease_until is not None
    assert worker.heartbeat_at is not None
    assert worker.lease_until > worker.heartbeat_at


def test_a_heartbeat_extends_the_lease_and_may_tell_the_state(store: Store, claims: Claims) -> None:
    worker_id = new_worker(claims)

    assert claims.heartbeat(worker_id, lease_seconds=2 * LONG, state="draining")
    (worker,) = store.workers()
    assert worker.state == "draining"
    assert worker.lease_until is not None
    assert worker.lease_until > datetime.now(UTC) + timedelta(seconds=1.5 * LONG)


def test_a_lost_lease_does_not_come_back(store: Store, claims: Claims) -> None:
    worker_id = new_worker(claims)
    lose_lease(claims, worker_id)

    assert not claims.heartbeat(worker_id, lease_seconds=LONG)
    assert not claims.heartbeat(uuid7(), lease_seconds=LONG)
    assert store.workers() == []


def test_an_incarnation_registers_once(claims: Claims, store: Store) -> None:
    new_worker(claims)
    (record,) = store.workers()

    with pytest.raises(Exception, match="workers"):
        claims.register(record, lease_seconds=LONG)


def test_rows_of_a_lost_worker_are_queued_again_without_blame(store: Store, claims: Claims) -> None:
    lost, live = new_worker(claims, slot="a"), new_worker(claims, slot="b")
    job, other = submit_and_claim(store, claims, lost), submit_and_claim(store, claims, live)
    lose_lease(claims, lost)

    assert claims.reap() == Reaped(num_workers=1, num_jobs=1)
    assert claims.reap() == Reaped()

    assert store.statuses([job.id, other.id]) == {job.id: Status.QUEUED, other.id: Status.IN_PROGRESS}
    (hint,) = store.take_unpublished(10)
    assert (hint.id, hint.suspicion) == (job.id, 0)
    assert [worker.id for worker in store.workers()] == [live]


def test_rows_of_a_lost_worker_that_were_cancelled_or_late_end(store: Store, claims: Claims) -> None:
    lost = new_worker(claims)
    cancelled = submit_and_claim(store, claims, lost)
    late = submit_and_claim(store, claims, lost, deadline=datetime.now(UTC) + timedelta(seconds=0.2))
    store.cancel(cancelled.id)
    while len(claims.to_stop(lost)) < 2:
        pass
    lose_lease(claims, lost)

    claims.reap()

    assert store.statuses([cancelled.id, late.id]) == {cancelled.id: Status.CANCELLED, late.id: Status.EXPIRED}


def test_attempts_are_not_endless(store: Store, database: Database) -> None:
    claims = Claims(database, max_attempts=2)
    job = new_job()
    store.submit([job])
    for _ in range(2):
        worker_id = new_worker(claims)
        assert len(claims.claim(worker_id, [job.id])) == 1
        lose_lease(claims, worker_id)
        claims.reap()

    read = store.job(job.id)
    assert read is not None
    assert read.status is Status.FAILED
    assert read.error is not None
    assert read.error.code == "attempts_exhausted"


def test_a_successor_takes_its_predecessors_rows_back_at_once(store: Store, claims: Claims) -> None:
    dead, neighbour = new_worker(claims, slot="a"), new_worker(claims, slot="b")
    jobs = new_jobs(3)
    store.submit(jobs)
    claims.claim(dead, [job.id for job in jobs[:2]])
    claims.claim(neighbour, [jobs[2].id])
    successor = new_worker(claims, slot="a")

    suspects = [job.id for job in jobs[:2]]
    assert set(claims.confirm_crash("a", successor=successor)) == set(suspects)
    assert claims.confirm_crash("a", successor=successor) == []

    assert [(job.status, job.suspicion) for job in store.rows(suspects)] == [(Status.QUEUED, 1)] * 2
    assert {worker.id for worker in store.workers()} == {successor, neighbour}


def test_a_worker_that_leaves_gives_back_what_it_holds(store: Store, claims: Claims) -> None:
    worker_id = new_worker(claims)
    job = submit_and_claim(store, claims, worker_id)

    claims.deregister(worker_id)
    claims.deregister(worker_id)

    assert store.statuses([job.id]) == {job.id: Status.QUEUED}
    assert store.workers() == []
    assert claims.commit(worker_id, [completed(job)]).fenced == {job.id}
