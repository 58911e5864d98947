"""Changing stored jobs, and their places in the queue."""

from datetime import UTC, datetime, timedelta

import pytest

from models import reads
from models.batch_store import BatchStore
from models.claims import Claims
from models.database import Database
from models.errors import JobNotQueued, NotFound
from models.ids import uuid7
from models.records import JobChange, JobRecord
from models.status import Status
from models.store import Store
from tests.integration.store.making import lines, new_job, new_jobs, new_worker, submit_and_claim, whole_batch


def read(store: Store, job_id: object) -> JobRecord:
    [job] = store.jobs([job_id])  # type: ignore[list-item]
    return job


def test_new_priority_is_announced_again(store: Store) -> None:
    job, other = new_job(), new_job(priority=5)
    store.submit([job, other])
    assert len(store.take_unpublished(10)) == 2

    store.change(job.id, JobChange(priority=9))

    [hint] = store.take_unpublished(10)
    assert (hint.id, hint.priority) == (job.id, 9)


def test_new_deadline_counts_from_now(store: Store) -> None:
    job = new_job(deadline=datetime.now(UTC) + timedelta(days=1))
    store.submit([job])

    store.change(job.id, JobChange(ttl_seconds=60))

    deadline = read(store, job.id).deadline
    assert deadline is not None
    assert abs(deadline - datetime.now(UTC) - timedelta(seconds=60)) < timedelta(seconds=30)
    assert read(store, job.id).priority == job.priority


@pytest.mark.parametrize("wanted", [JobChange(priority=9), JobChange(ttl_seconds=1), JobChange(1, 1, {"k": "v"})])
def test_job_that_was_claimed_stays_as_it_was(store: Store, claims: Claims, wanted: JobChange) -> None:
    job = submit_and_claim(store, claims, new_worker(claims))
    before = read(store, job.id)

    with pytest.raises(JobNotQueued):
        store.change(job.id, wanted)

    assert read(store, job.id) == before


def test_metadata_of_a_finished_job_can_change(store: Store) -> None:
    job = new_job()
    store.submit([job])
    store.cancel(job.id)

    store.change(job.id, JobChange(metadata={"k": "v"}))

    assert read(store, job.id).body == {"prompt": "hello", "metadata": {"k": "v"}}


def test_row_of_a_batch_changes_too(store: Store, database: Database) -> None:
    [row] = lines(1)
    whole_batch(BatchStore(database), [row])

    store.change(row.id, JobChange(priority=0, metadata={"k": "v"}))

    changed = read(store, row.id)
    assert (changed.priority, changed.body["metadata"], changed.status) == (0, {"k": "v"}, Status.QUEUED)


def test_row_of_a_batch_never_outlives_its_window(store: Store, database: Database) -> None:
    batches = BatchStore(database)
    late, early = lines(2)
    batch = batches.get(whole_batch(batches, [late, early], completion_window_seconds=3600))
    assert batch is not None

    store.change(late.id, JobChange(ttl_seconds=30 * 24 * 3600))
    store.change(early.id, JobChange(ttl_seconds=60))

    assert read(store, late.id).deadline == batch.expires_at
    sooner = read(store, early.id).deadline
    assert sooner is not None
    assert batch.expires_at is not None
    assert sooner < batch.expires_at


@pytest.mark.parametrize("wanted", [JobChange(priority=9), JobChange(metadata={"k": "v"})])
def test_another_tenants_job_is_as_good_as_not_there(store: Store, wanted: JobChange) -> None:
    job = new_job(tenant="acme")
    store.submit([job])
    before = read(store, job.id)

    with pytest.raises(NotFound):
        store.change(job.id, wanted, "other")
    with pytest.raises(NotFound):
        store.change(uuid7(), wanted, "acme")

    assert read(store, job.id) == before


def test_place_in_the_queue_counts_who_comes_before(store: Store) -> None:
    first, second, urgent = new_job(), new_job(), new_job(priority=9)
    store.submit([first, second, urgent, new_job(priority=0), new_job(model="other", priority=9)])

    assert [store.queue_position(job.id) for job in (urgent, first, second)] == [0, 1, 2]
    store.take_unpublished(2)  # the announced ones count as well
    assert [store.queue_position(job.id) for job in (urgent, first, second)] == [0, 1, 2]


def test_only_a_queued_job_has_a_place(store: Store) -> None:
    job = new_job()
    store.submit([job])
    store.cancel(job.id)

    assert store.queue_position(job.id) is None
    assert store.queue_position(uuid7()) is None


@pytest.mark.parametrize("is_announced", [False, True])
def test_a_place_far_behind_is_not_counted(store: Store, is_announced: bool) -> None:
    before, last = new_jobs(reads.MAX_COUNTED + 1), new_job()
    store.submit([*before, last])
    if is_announced:
        store.take_unpublished(len(before))

    assert store.queue_position(last.id) is None
    assert store.queue_position(before[0].id) == (None if is_announced else 0)


def test_rows_come_without_bodies_and_completions(store: Store) -> None:
    jobs = new_jobs(2, tenant="acme")
    store.submit(jobs)

    rows = store.rows([jobs[1].id, uuid7(), jobs[0].id], "acme")

    assert [row.id for row in rows] == [jobs[1].id, jobs[0].id]
    assert [row.payload for row in rows] == ["{}", "{}"]
    assert store.rows([jobs[0].id], "other") == []
