"""Suspects: who is one, which of them run together, when one is found guilty. On both databases."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, text, update

from models import suspects
from models.claims import Claims
from models.columns import now
from models.database import Database
from models.ids import uuid7
from models.records import JobError, JobRecord
from models.status import Status
from models.store import Store
from models.suspects import COMPANY, Level, Suspects
from models.tables import jobs
from tests.integration.store.making import MODEL, SHORT, completed, new_job, new_jobs, new_worker

USUAL, MANY, FEW, ALONE = Level


def finish(claims: Claims, ids: list[UUID], level: Level) -> None:
    """A worker that completes these rows."""
    worker_id = new_worker(claims, slot="a")
    claimed = claims.claim(worker_id, ids, level=level)
    assert claims.commit(worker_id, [completed(job) for job in claimed]).applied == set(ids)
    claims.deregister(worker_id)


def crash(claims: Claims, ids: list[UUID], level: Level) -> None:
    """A worker that crashes with these rows in its hands."""
    worker_id = new_worker(claims, slot="a")
    assert {job.id for job in claims.claim(worker_id, ids, level=level)} == set(ids)
    assert set(claims.confirm_crash("a", successor=uuid7())) == set(ids)


def read(store: Store, job_id: UUID) -> JobRecord:
    job = store.job(job_id)
    assert job is not None
    return job


def submit(store: Store, number: int) -> list[UUID]:
    jobs = new_jobs(number)
    store.submit(jobs)
    return [job.id for job in jobs]


def test_a_row_fails_after_a_crash_in_usual_company_one_among_few_and_two_alone(store: Store, claims: Claims) -> None:
    [job_id] = submit(store, 1)
    for level in (USUAL, FEW, ALONE):
        crash(claims, [job_id], level)
        assert read(store, job_id).status is Status.QUEUED
    assert claims.guilty([job_id]) == set()

    crash(claims, [job_id], ALONE)

    job = read(store, job_id)
    assert (job.status, job.suspicion, job.attempt) == (Status.FAILED, 4, 4)
    assert job.error == JobError("worker_crashed", "The worker crashed twice while it ran this job alone.")
    assert claims.guilty([job_id, uuid7()]) == {job_id}


def test_being_the_only_row_held_is_not_being_alone(store: Store, claims: Claims) -> None:
    """The last row of many to finish may die of what its neighbours left: no verdict without a claim alone."""
    first, last = submit(store, 2)
    for level in (USUAL, FEW):
        worker_id = new_worker(claims, slot="a")
        both = claims.claim(worker_id, [first, last], level=level)
        if level is FEW:
            claims.commit(worker_id, [completed(job) for job in both if job.id == first])
        claims.confirm_crash("a", successor=uuid7())
    crash(claims, [last], ALONE)

    assert read(store, last).status is Status.QUEUED


def test_two_rows_held_together_are_not_alone_whatever_their_level(store: Store, claims: Claims) -> None:
    ids = submit(store, 2)
    for level in (USUAL, FEW, ALONE, ALONE, ALONE):
        crash(claims, ids, level)

    assert {job.status for job in store.rows(ids)} == {Status.QUEUED}


@pytest.mark.parametrize("level", Level)
def test_a_claim_takes_rows_of_its_level_only(store: Store, claims: Claims, level: Level) -> None:
    """A message may name rows that are suspects by now."""
    usual, few, alone, *many = submit(store, 68)
    crash(claims, many, USUAL)
    crash(claims, [few, alone], USUAL)
    crash(claims, [alone], FEW)

    claimed = claims.claim(new_worker(claims, slot="b"), [usual, many[0], few, alone], level=level)

    assert [job.id for job in claimed] == [[usual, many[0], few, alone][level]]
    assert [job.suspicion for job in claimed] == [[0, 1, 1, 2][level]]


def test_an_inline_message_does_not_claim_its_job_once_that_is_a_suspect(store: Store, claims: Claims) -> None:
    job = new_job()
    store.submit([job])
    crash(claims, [job.id], USUAL)

    assert claims.claim_inline(new_worker(claims, slot="b"), [job]) == []
    assert claims.suspects(MODEL) == Suspects(FEW, [job.id])


def test_suspects_are_found_in_shrinking_company_the_most_suspected_first(store: Store, claims: Claims) -> None:
    ids = submit(store, 20)
    assert claims.suspects(MODEL) is None
    crash(claims, ids, USUAL)

    few = claims.suspects(MODEL)
    assert few == Suspects(FEW, ids[: COMPANY[FEW]])
    assert claims.suspects("other") is None
    crash(claims, few.ids, FEW)

    for job_id in few.ids:
        assert claims.suspects(MODEL) == Suspects(ALONE, [job_id])
        finish(claims, [job_id], ALONE)
    assert claims.suspects(MODEL) == Suspects(FEW, ids[8:16])


def test_rows_of_a_large_engine_run_among_many_first(store: Store, claims: Claims) -> None:
    """Most crashes are nobody's fault: hundreds of rows in eights would take long for one of them."""
    ids = submit(store, COMPANY[MANY] + 1)
    crash(claims, ids, USUAL)

    many = claims.suspects(MODEL)
    assert many == Suspects(MANY, ids[:-1])
    crash(claims, many.ids, MANY)

    assert claims.suspects(MODEL) == Suspects(FEW, ids[:8])
    assert [job.suspicion for job in claims.claim(new_worker(claims, slot="b"), ids[-1:], level=MANY)] == [1]


def test_of_those_alone_the_ones_that_crashed_alone_least_go_first(store: Store, claims: Claims) -> None:
    """On a bad device different rows crash in turn before any is blamed twice."""
    ids = submit(store, 3)
    crash(claims, ids, USUAL)
    crash(claims, ids, FEW)
    order = []
    for _ in range(3):
        found = claims.suspects(MODEL)
        assert found is not None
        crash(claims, found.ids, found.level)
        order += found.ids

    assert order == ids
    assert {job.status for job in store.rows(ids)} == {Status.QUEUED}
    assert claims.suspects(MODEL) == Suspects(ALONE, ids[:1])


def test_a_suspect_past_its_deadline_is_not_run(store: Store, claims: Claims, database: Database) -> None:
    job = new_job(deadline=datetime.now(UTC) + timedelta(hours=1))
    store.submit([job])
    crash(claims, [job.id], USUAL)
    assert claims.suspects(MODEL)

    with database.transaction() as connection:
        connection.execute(update(jobs).values(deadline=now()))

    assert claims.suspects(MODEL) is None
    assert claims.expire_queued(10) == 1


def test_lost_leases_make_no_suspects(store: Store, claims: Claims) -> None:
    """F41: whatever a network does, only a crash that somebody saw raises suspicion."""
    ids = submit(store, 8)
    for _ in range(6):
        worker_id = new_worker(claims, slot="a", lease_seconds=0.5)
        assert len(claims.claim(worker_id, ids)) == 8
        claims.heartbeat(worker_id, lease_seconds=SHORT)
        while not claims.reap().num_jobs:
            time.sleep(SHORT)
        assert claims.confirm_crash("a", successor=uuid7()) == []

    rows = store.rows(ids)
    assert {(row.status, row.suspicion, row.attempt) for row in rows} == {(Status.QUEUED, 0, 6)}
    assert claims.suspects(MODEL) is None


def test_looking_for_suspects_reads_an_index_of_them(database: Database, store: Store, claims: Claims) -> None:
    """It is done all the time, before a backlog of any size."""
    [suspect] = submit(store, 1)
    crash(claims, [suspect], USUAL)
    submit(store, 500)
    queries: list[tuple[str, Any]] = []
    with database.transaction() as connection:
        if database.dialect == "postgresql":
            connection.execute(text("ANALYZE jobs"))
        event.listen(connection, "before_cursor_execute", lambda *args: queries.append((args[2], args[3])))
        suspects.find(connection, MODEL)
        statement, parameters = queries[-1]
        explain = "EXPLAIN " if database.dialect == "postgresql" else "EXPLAIN QUERY PLAN "
        plan = "\n".join(str(row) for row in connection.exec_driver_sql(explain + statement, parameters))

    assert "jobs_suspects" in plan
