"""Listing jobs by page, on both databases."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from models.batch_store import BatchStore
from models.claims import Claims
from models.database import Database
from models.errors import RequestError
from models.ids import uuid7
from models.listing import JobFilter, Page
from models.records import JobChange, JobRecord, NewJob
from models.status import Status
from models.store import Store
from tests.integration.store.making import (
    ENDPOINT,
    completed,
    failed,
    lines,
    new_job,
    new_jobs,
    new_worker,
    submit_and_claim,
    whole_batch,
)

CHAT = "/v1/chat/completions"
TENANT = "default"


def submit_each(store: Store, new: Sequence[NewJob]) -> list[UUID]:
    """Jobs of one transaction share a time; these have one each, but for the last two."""
    for job in new[:-2]:
        store.submit([job])
    store.submit(new[-2:])
    return [job.id for job in new]


def ids(jobs: Sequence[JobRecord]) -> list[UUID]:
    return [job.id for job in jobs]


def found(store: Store, page: Page = Page(20), *, tenant: str = TENANT, **wanted: Any) -> list[UUID]:  # noqa: ANN401, B008
    return ids(store.list_jobs(tenant, JobFilter(**wanted), page)[0])


def all_pages(store: Store, wanted: JobFilter, *, limit: int, is_descending: bool = True) -> list[UUID]:
    """Every page's jobs; the last page says that it is the last."""
    seen: list[UUID] = []
    has_more = True
    while has_more:
        page = Page(limit, seen[-1] if seen else None, is_descending)
        jobs, has_more = store.list_jobs(TENANT, wanted, page)
        assert len(jobs) == limit or not has_more
        seen += ids(jobs)
    return seen


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
def test_pages_hold_every_job_once_newest_first(store: Store, limit: int) -> None:
    mixed = [new_job(endpoint=(ENDPOINT, CHAT)[index % 2]) for index in range(7)]
    submitted = submit_each(store, mixed)
    store.cancel(submitted[3])

    assert all_pages(store, JobFilter(), limit=limit) == submitted[::-1]
    assert all_pages(store, JobFilter(), limit=limit, is_descending=False) == submitted


def test_jobs_of_one_moment_are_paged_by_id(store: Store) -> None:
    jobs = sorted(new_jobs(5), key=lambda job: job.id)
    store.submit(jobs)

    assert all_pages(store, JobFilter(), limit=2) == [job.id for job in jobs][::-1]


def test_each_filter_narrows(store: Store, claims: Claims) -> None:
    worker_id = new_worker(claims)
    done = submit_and_claim(store, claims, worker_id)
    broken = submit_and_claim(store, claims, worker_id, endpoint=CHAT)
    claims.commit(worker_id, [completed(done), failed(broken)])
    running = submit_and_claim(store, claims, worker_id)
    other, chat = submit_each(store, [new_job(model="other"), new_job(endpoint=CHAT)])

    assert found(store, status=Status.COMPLETED) == [done.id]
    assert found(store, status=Status.FAILED) == [broken.id]
    assert found(store, status=Status.IN_PROGRESS) == [running.id]
    assert found(store, status=Status.QUEUED) == [chat, other]
    assert found(store, endpoint=CHAT) == [chat, broken.id]
    assert found(store, model="other") == [other]
    assert found(store, status=Status.QUEUED, model="demo", endpoint=ENDPOINT) == []


def test_times_bound_a_list(store: Store) -> None:
    first, second, third, _ = submit_each(store, new_jobs(4))
    middle = store.jobs([second])[0].created_at

    assert found(store, created_before=middle) == [first]
    assert found(store, created_after=middle)[-1] == third
    assert found(store, created_after=middle - timedelta(microseconds=1), created_before=middle) == []


def test_listed_job_comes_with_its_request_and_completions(store: Store, claims: Claims) -> None:
    worker_id = new_worker(claims)
    claims.commit(worker_id, [completed(submit_and_claim(store, claims, worker_id, body={"prompt": "p"}))])

    [job], has_more = store.list_jobs(TENANT, JobFilter(), Page(1))

    assert (job.body, job.completions[0].text, has_more) == ({"prompt": "p"}, "hi", False)


def test_list_shows_one_tenants_jobs(store: Store, database: Database) -> None:
    metadata = {"metadata": {"k": "v"}}
    own, foreign = new_job(body=metadata, tenant="acme"), new_job(body=metadata)
    store.submit([own])
    store.submit([foreign])  # newer: it must not take the place of an entry either
    batch_id = whole_batch(BatchStore(database), lines(1, tenant="acme"), tenant="acme")

    assert store.list_jobs("acme", JobFilter(), Page(1)) == (store.jobs([own.id]), False)
    assert store.list_jobs("acme", JobFilter(metadata={"k": "v"}), Page(1)) == (store.jobs([own.id]), False)
    assert found(store, tenant="other", batch_id=batch_id) == []
    with pytest.raises(RequestError, match="after"):
        store.list_jobs("acme", JobFilter(), Page(1, foreign.id))


def test_cursor_of_another_list_or_none_is_refused(store: Store, database: Database) -> None:
    job, rows = new_job(), lines(1)
    store.submit([job])
    batch_id = whole_batch(BatchStore(database), rows)

    for wanted, after in [
        (JobFilter(), uuid7()),
        (JobFilter(), rows[0].id),
        (JobFilter(batch_id=batch_id), job.id),
        (JobFilter(batch_id=uuid7()), rows[0].id),
    ]:
        with pytest.raises(RequestError) as refused:
            store.list_jobs(TENANT, wanted, Page(1, after))
        assert (refused.value.error_code, refused.value.param) == ("invalid_cursor", "after")


def test_cursor_stays_good_when_its_job_leaves_the_filter(store: Store) -> None:
    first, second, third = submit_each(store, new_jobs(3))
    store.cancel(third)

    assert found(store, Page(5, third), status=Status.QUEUED) == [second, first]


def test_rows_of_a_batch_are_listed_through_it(store: Store, database: Database, claims: Claims) -> None:
    rows = lines(5)
    alone = new_job()
    batch_id = whole_batch(BatchStore(database), rows)
    store.submit([alone])
    worker_id = new_worker(claims)
    [claimed] = claims.claim(worker_id, [rows[3].id])
    claims.commit(worker_id, [failed(claimed)])
    in_order = [row.id for row in rows]

    assert found(store) == [alone.id]
    assert all_pages(store, JobFilter(batch_id=batch_id), limit=2) == in_order[::-1]
    assert all_pages(store, JobFilter(batch_id=batch_id), limit=2, is_descending=False) == in_order
    assert found(store, batch_id=batch_id, status=Status.FAILED) == [rows[3].id]
    assert found(store, batch_id=batch_id, model="other") == []


def test_metadata_finds_jobs_outside_batches(store: Store, database: Database) -> None:
    both = new_job(body={"metadata": {"team": "a", "run": "1"}})
    one = new_job(body={"metadata": {"team": "a", "run": "2"}}, model="other")
    neither = new_job(body={"metadata": {"team": "b"}})
    submit_each(store, [both, one, neither, new_job()])
    whole_batch(BatchStore(database), lines(1, body={"metadata": {"team": "a"}}))

    assert found(store, metadata={"team": "a"}) == [one.id, both.id]
    assert found(store, Page(1, is_descending=False), metadata={"team": "a"}) == [both.id]
    assert found(store, Page(1, one.id), metadata={"team": "a"}) == [both.id]
    assert found(store, metadata={"team": "a", "run": "1"}) == [both.id]
    assert found(store, metadata={"team": "a"}, model="other", status=Status.QUEUED, endpoint=ENDPOINT) == [one.id]
    assert found(store, metadata={"team": "a"}, created_after=store.jobs([both.id])[0].created_at) == [one.id]
    assert found(store, metadata={"team": "c"}) == []


def test_metadata_may_hold_what_no_database_text_holds(store: Store) -> None:
    job = new_job(body={"metadata": {"a\0": "naïve\0", "a\N{REPLACEMENT CHARACTER}": "x"}})
    store.submit([job])

    assert found(store, metadata={"a\0": "x"}) == [job.id]
    assert found(store, model="\0") == []


def test_id_stored_already_keeps_the_metadata_it_came_with(store: Store) -> None:
    job = new_job(body={"metadata": {"k": "first"}})
    store.submit([job, new_job(id=job.id, body={"metadata": {"k": "second"}})])
    store.submit([new_job(id=job.id, body={"metadata": {"k": "third"}})])

    assert found(store, metadata={"k": "first"}) == [job.id]
    assert found(store, metadata={"k": "second"}) == found(store, metadata={"k": "third"}) == []


def test_changed_metadata_is_found_by(store: Store) -> None:
    job = new_job(body={"prompt": "p", "metadata": {"k": "old", "gone": "1"}})
    store.submit([job])

    store.change(job.id, JobChange(metadata={"k": "new"}))

    assert found(store, metadata={"k": "new"}) == [job.id]
    assert found(store, metadata={"k": "old"}) == found(store, metadata={"gone": "1"}) == []
    assert store.jobs([job.id])[0].body == {"prompt": "p", "metadata": {"k": "new"}}
