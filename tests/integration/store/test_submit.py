"""Submitting jobs and reading them back, on both databases."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from models.claims import Claims
from models.errors import IdempotencyKeyReused
from models.idempotency import by_key
from models.ids import uuid7
from models.records import NewJob
from models.status import Status
from models.store import Store
from models.submitting import Submission, Submitted
from tests.integration.store.making import REFUSAL, choice, completed, new_job, new_jobs, new_worker, submit_and_claim


def submit_once(
    store: Store, job: NewJob, *, path: str = "/v1/completions", body_hash: bytes = b"1"
) -> Submitted | IdempotencyKeyReused:
    """Submit a job under a key."""
    return store.submit_group([Submission(job, by_key("k", path, body_hash))])[0]


def test_a_submitted_job_is_queued_and_reads_back_as_it_came(store: Store) -> None:
    deadline = datetime.now(UTC) + timedelta(hours=1)
    job = new_job(body={"prompt": "naïve 日本\0", "seed": 2**63 - 1}, tenant="acme", priority=9, deadline=deadline)

    store.submit([job])

    read = store.job(job.id)
    assert read is not None
    assert (read.id, read.tenant, read.model, read.endpoint, read.priority) == (
        job.id,
        "acme",
        job.model,
        job.endpoint,
        9,
    )
    assert read.body == job.body
    assert read.status is Status.QUEUED
    assert read.attempt == 0
    assert read.deadline is not None
    assert abs(read.deadline - deadline) < timedelta(milliseconds=1)
    assert abs(read.created_at - datetime.now(UTC)) < timedelta(seconds=30)
    assert read.completions == ()


def test_submitting_an_id_again_changes_nothing(store: Store) -> None:
    first = new_job(body={"prompt": "first"})
    store.submit([first])

    store.submit([new_job(id=first.id, body={"prompt": "second"}), new_job()])
    store.submit([first, first])

    read = store.job(first.id)
    assert read is not None
    assert read.body == {"prompt": "first"}
    assert store.queue_depth() == {first.model: 2}


def test_submit_is_all_or_nothing(store: Store) -> None:
    good = new_job()

    with pytest.raises(Exception, match=r"jobs_priority|priority"):
        store.submit([good, new_job(priority=10)])

    assert store.job(good.id) is None


def test_nothing_submitted_is_fine(store: Store) -> None:
    store.submit([])

    assert store.queue_depth() == {}


def test_a_refused_job_is_stored_failed_with_its_reason(store: Store) -> None:
    job = new_job(error=REFUSAL)

    store.submit([job])

    read = store.job(job.id)
    assert read is not None
    assert (read.status, read.error, read.attempt) == (Status.FAILED, REFUSAL, 0)
    assert read.finished_at is not None
    assert store.take_unpublished(10) == []


def test_a_refused_body_may_hold_what_no_database_text_holds(store: Store) -> None:
    job = new_job(body={"prompt": "\ud800", "seed": 2**100}, error=REFUSAL, model="m\0", custom_id="\0\ud800")

    store.submit([job])

    read = store.job(job.id)
    assert read is not None
    assert read.body == job.body


def test_many_jobs_are_one_submission(store: Store) -> None:
    jobs = new_jobs(12_000)

    store.submit(jobs)

    assert store.queue_depth() == {jobs[0].model: 12_000}


def test_another_tenants_job_is_not_there(store: Store) -> None:
    job = new_job(tenant="acme")
    store.submit([job])

    assert store.job(job.id, "acme") is not None
    assert store.job(job.id, "other") is None
    assert store.job(uuid7()) is None


def test_jobs_come_in_the_order_asked_for(store: Store) -> None:
    jobs = new_jobs(3)
    store.submit(jobs)
    asked = [jobs[2].id, uuid7(), jobs[0].id]

    assert [job.id for job in store.jobs(asked)] == [jobs[2].id, jobs[0].id]
    assert store.statuses(asked) == {jobs[2].id: Status.QUEUED, jobs[0].id: Status.QUEUED}
    assert store.jobs([]) == []


def test_completions_read_back_as_written(store: Store, claims: Claims) -> None:
    worker_id = new_worker(claims)
    job = submit_and_claim(store, claims, worker_id)
    first = choice(
        "naïve\0",
        logprobs=(None, -0.5),
        prompt_token_ids=(7, 8, 9),
        details={"tokens": ["na", "ïve"], "top_logprobs": [None, {"x": -0.5}]},
        seed=2**63 - 1,
        fingerprint="fp_1",
        finish_reason="length",
    )
    second = choice("", choice_index=1, token_ids=())
    claims.commit(worker_id, [replace(completed(job), completions=(first, second))])

    read = store.job(job.id)

    assert read is not None
    assert [read.completions[0].text, read.completions[1].text] == ["naïve\N{REPLACEMENT CHARACTER}", ""]
    assert read.completions[0].logprobs == (None, -0.5)
    assert read.completions[0].prompt_token_ids == (7, 8, 9)
    assert read.completions[0].details == first.details
    assert (read.completions[0].seed, read.completions[0].fingerprint) == (2**63 - 1, "fp_1")
    assert read.completions[1].token_ids == ()
    assert read.completions[1].logprobs is None


def test_a_key_used_again_with_the_same_request_finds_the_first_job(store: Store) -> None:
    first, second = new_job(), new_job()

    assert submit_once(store, first) == (first.id, False)
    assert submit_once(store, second) == (first.id, True)
    assert store.job(second.id) is None


def test_a_key_used_again_with_another_request_is_refused(store: Store) -> None:
    submit_once(store, new_job())
    other = new_job()

    assert isinstance(submit_once(store, other, body_hash=b"2"), IdempotencyKeyReused)
    assert isinstance(submit_once(store, other, path="/v1/chat/completions"), IdempotencyKeyReused)

    assert store.job(other.id) is None


def test_a_key_belongs_to_its_tenant(store: Store) -> None:
    submit_once(store, new_job())
    other = new_job(tenant="other")

    assert submit_once(store, other, body_hash=b"2") == (other.id, False)


def test_a_queued_job_is_cancelled_at_once(store: Store) -> None:
    job = new_job()
    store.submit([job])

    assert store.cancel(job.id, "other") is None
    assert store.cancel(job.id) is Status.CANCELLED
    assert store.cancel(job.id) is Status.CANCELLED
    assert store.cancel(uuid7()) is None
    assert store.take_unpublished(10) == []


def test_cancelling_a_finished_job_changes_nothing(store: Store, claims: Claims) -> None:
    worker_id = new_worker(claims)
    job = submit_and_claim(store, claims, worker_id)
    claims.commit(worker_id, [completed(job)])

    assert store.cancel(job.id) is Status.COMPLETED


def test_hints_come_by_priority_then_age(store: Store) -> None:
    late, early, urgent = new_job(), new_job(), new_job(priority=9)
    store.submit([early])
    store.submit([late, urgent, new_job(model="other", priority=9)])

    hints = store.take_unpublished(10, model=early.model)

    assert [hint.id for hint in hints] == [urgent.id, early.id, late.id]
    assert (hints[0].model, hints[0].priority, hints[0].suspicion) == (early.model, 9, 0)


def test_a_hint_is_taken_once(store: Store) -> None:
    jobs = new_jobs(5)
    store.submit(jobs)

    taken = [hint.id for _ in range(3) for hint in store.take_unpublished(2)]

    assert taken == [job.id for job in jobs]
    assert store.take_unpublished(2) == []


def test_a_hint_that_was_lost_is_taken_again(store: Store) -> None:
    jobs = new_jobs(3)
    store.submit(jobs)
    store.take_unpublished(2)

    store.unpublish([jobs[0].id])

    assert [hint.id for hint in store.take_unpublished(10)] == [jobs[0].id, jobs[2].id]
    assert store.unpublish_queued(model="other") == 0
    assert store.unpublish_queued(older_than_seconds=60) == 0
    time.sleep(0.002)  # SQLite's clock counts milliseconds
    assert store.unpublish_queued() == 3
