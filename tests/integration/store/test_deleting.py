"""Deleting a job: nothing of it stays, and nothing else goes."""

from typing import Any

import pytest
from sqlalchemy import func, select

from models.batch_store import BatchStore
from models.claims import Claims
from models.database import Database
from models.errors import JobNotFinal, JobOfBatch, NotFound
from models.idempotency import by_key
from models.ids import uuid7
from models.records import ClaimedJob, NewJob
from models.store import Store
from models.submitting import Submission
from models.tables import completions, idempotency, job_metadata, jobs, payloads
from tests.integration.store.making import completed, lines, new_job, new_worker, whole_batch

ABOUT_JOBS = {"jobs": jobs.c.id, "payloads": payloads.c.job_id, "completions": completions.c.job_id}
KEPT_FOR_JOBS = {"job_metadata": job_metadata.c.job_id, "idempotency": idempotency.c.job_id}
BODY: dict[str, Any] = {"prompt": "p", "metadata": {"k": "v"}}


def num_rows(database: Database, job: NewJob | ClaimedJob) -> dict[str, int]:
    """How many rows of each table tell of a job."""
    with database.read() as connection:
        return {
            name: connection.execute(select(func.count()).where(column == job.id)).scalar_one()
            for name, column in (ABOUT_JOBS | KEPT_FOR_JOBS).items()
        }


def finished_job(store: Store, claims: Claims, key: str) -> NewJob:
    job = new_job(body=BODY)
    store.submit_group([Submission(job, by_key(key, "/v1/completions", b""))])
    worker_id = new_worker(claims, slot=key)
    claims.commit(worker_id, [completed(claimed) for claimed in claims.claim(worker_id, [job.id])])
    return job


def test_deletion_removes_every_row_of_the_job_and_no_other(store: Store, database: Database, claims: Claims) -> None:
    job, other = finished_job(store, claims, "a"), finished_job(store, claims, "b")
    every = dict.fromkeys(ABOUT_JOBS | KEPT_FOR_JOBS, 1)
    assert num_rows(database, job) == every

    store.delete(job.id)

    assert num_rows(database, job) == dict.fromkeys(every, 0)
    assert num_rows(database, other) == every
    with pytest.raises(NotFound):
        store.delete(job.id)


def test_key_of_a_deleted_job_may_be_used_again(store: Store, claims: Claims) -> None:
    job = finished_job(store, claims, "a")
    store.delete(job.id)
    again = new_job(body={"prompt": "another"})

    assert store.submit_group([Submission(again, by_key("a", "/v1/completions", b""))]) == [(again.id, False)]


def test_unfinished_job_is_not_deleted(store: Store, database: Database, claims: Claims) -> None:
    job = new_job()
    store.submit([job])

    with pytest.raises(JobNotFinal):
        store.delete(job.id)
    claims.claim(new_worker(claims), [job.id])
    with pytest.raises(JobNotFinal):
        store.delete(job.id)

    assert num_rows(database, job)["jobs"] == num_rows(database, job)["payloads"] == 1


def test_row_of_a_batch_goes_with_its_batch(store: Store, database: Database) -> None:
    [row] = lines(1)
    batch_id = whole_batch(BatchStore(database), [row])
    BatchStore(database).cancel(batch_id)

    with pytest.raises(JobOfBatch):
        store.delete(row.id)

    assert num_rows(database, row)["jobs"] == 1


def test_another_tenants_job_is_as_good_as_not_there(store: Store, database: Database, claims: Claims) -> None:
    job = finished_job(store, claims, "a")

    for tenant, endpoint in [("other", None), ("default", "/v1/responses")]:
        with pytest.raises(NotFound):
            store.delete(job.id, tenant, endpoint)
    with pytest.raises(NotFound):
        store.delete(uuid7(), "default")

    assert num_rows(database, job)["completions"] == 1
