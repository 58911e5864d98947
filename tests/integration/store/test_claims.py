"""Claiming, committing and giving back, on both databases."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from models.claims import Claims
from models.ids import uuid7
from models.records import ClaimedJob, CommitResult, JobError, Outcome
from models.status import Status
from models.store import Store
from tests.integration.store.making import (
    REFUSAL,
    SHORT,
    choice,
    completed,
    failed,
    new_job,
    new_jobs,
    new_worker,
    submit_and_claim,
)

PAST = datetime(2020, 1, 1, tzinfo=UTC)


def status_of(store: Store, job_id: UUID) -> Status:
    return store.statuses([job_id])[job_id]


def test_a_claim_hands_over_the_whole_job(store: Store, claims: Claims) -> None:
    worker_id = new_worker(claims)
    deadline = datetime.now(UTC) + timedelta(hours=1)

    claimed = submit_and_claim(store, claims, worker_id, priority=7, tenant="acme", deadline=deadline)

    assert (claimed.attempt, claimed.priority, claimed.tenant, claimed.suspicion) == (1, 7, "acme", 0)
    assert claimed.body == {"prompt": "hello"}
    assert claimed.deadline is not None
    assert abs(claimed.deadline - deadline) < timedelta(milliseconds=1)
    read = store.job(claimed.id)
    assert read is not None
    assert read.status is Status.IN_PROGRESS
    assert read.started_at is not None


def test_a_job_is_claimed_by_one_worker_only(store: Store, claims: Claims) -> None:
    first, second = new_worker(claims, slot="a"), new_worker(claims, slot="b")
    job = submit_and_claim(store, claims, first)

    assert claims.claim(second, [job.id]) == []
    assert claims.claim(first, [job.id]) == []


def test_only_what_is_queued_is_claimed(store: Store, claims: Claims) -> None:
    worker_id = new_worker(claims)
    refused, cancelled, late, good = new_job(error=REFUSAL), new_job(), new_job(deadline=PAST), new_job()
    store.submit([refused, cancelled, late, good])
    store.cancel(cancelled.id)

    claimed = claims.claim(worker_id, [refused.id, cancelled.id, late.id, uuid7(), good.id, good.id])

    assert [job.id for job in claimed] == [good.id]
    assert claims.claim(worker_id, []) == []


def test_a_worker_without_a_lease_claims_nothing(store: Store, claims: Claims) -> None:
    job, inline = new_job(), new_job()
    store.submit([job])
    lost = new_worker(claims, lease_seconds=0)

    assert claims.claim(lost, [job.id]) == []
    assert claims.claim(uuid7(), [job.id]) == []
    assert claims.claim_inline(lost, [inline]) == []
    assert status_of(store, inline.id) is Status.QUEUED  # accepted all the same


def test_an_inline_job_is_stored_and_claimed(store: Store, claims: Claims) -> None:
    worker_id = new_worker(claims)
    job = new_job(body={"prompt": "inline"})

    (claimed,) = claims.claim_inline(worker_id, [job])

    assert (claimed.id, claimed.attempt, claimed.body) == (job.id, 1, {"prompt": "inline"})


def test_an_inline_job_that_was_stored_before_keeps_its_body(store: Store, claims: Claims) -> None:
    worker_id = new_worker(claims)
    job = new_job(body={"prompt": "stored"})
    store.submit([job])

    (claimed,) = claims.claim_inline(worker_id, [replace(job, body={"prompt": "redelivered"})])

    assert claimed.body == {"prompt": "stored"}


def test_an_inline_job_that_is_taken_or_final_is_not_returned(store: Store, claims: Claims) -> None:
    other, worker_id = new_worker(claims, slot="a"), new_worker(claims, slot="b")
    taken, done, refused = new_job(), new_job(), new_job(error=REFUSAL)
    claims.claim_inline(other, [taken])
    claims.commit(other, [completed(job) for job in claims.claim_inline(other, [done])])

    assert claims.claim_inline(worker_id, [taken, done, refused]) == []
    assert status_of(store, refused.id) is Status.FAILED


def test_a_commit_stores_outcomes_of_each_kind(store: Store, claims: Claims) -> None:
    worker_id = new_worker(claims)
    jobs = new_jobs(4)
    store.submit(jobs)
    one, two, three, four = claims.claim(worker_id, [job.id for job in jobs])

    result = claims.commit(
        worker_id,
        [
            completed(one),
            failed(two, "out_of_memory"),
            Outcome(three.id, three.attempt, Status.CANCELLED),
            Outcome(four.id, four.attempt, Status.EXPIRED),
        ],
    )

    assert result == CommitResult(applied=frozenset(job.id for job in jobs))
    read = {job.id: job for job in store.jobs([one.id, two.id, three.id, four.id])}
    assert [job.status for job in read.values()] == ["completed", "failed", "cancelled", "expired"]
    assert read[two.id].error == JobError("out_of_memory", "too long")
    assert read[four.id].error == JobError("deadline_exceeded", "The deadline passed before the job was finished.")
    assert all(job.finished_at is not None for job in read.values())


def test_a_failure_without_a_reason_gets_one_and_its_neighbours_live(store: Store, claims: Claims) -> None:
    worker_id = new_worker(claims)
    one, two = (submit_and_claim(store, claims, worker_id) for _ in range(2))

    claims.commit(worker_id, [Outcome(one.id, one.attempt, Status.FAILED), completed(two)])

    read = store.job(one.id)
    assert read is not None
    assert read.error is not None
    assert read.error.code == "internal_error"
    assert status_of(store, two.id) is Status.COMPLETED


def test_a_commit_run_again_is_recognised(store: Store, claims: Claims) -> None:
    worker_id = new_worker(claims)
    one, two = (submit_and_claim(store, claims, worker_id) for _ in range(2))
    claims.commit(worker_id, [completed(one)])

    result = claims.commit(worker_id, [completed(one), failed(two)])

    assert result == CommitResult(applied=frozenset({two.id}), already_mine=frozenset({one.id}))
    assert claims.commit(worker_id, []) == CommitResult()


def test_several_answers_are_stored_once_whether_the_commit_is_run_again_or_late(store: Store, claims: Claims) -> None:
    worker_id = new_worker(claims)
    job = submit_and_claim(store, claims, worker_id)
    answers = tuple(choice(f"answer {index}", choice_index=index) for index in range(128))
    outcome = replace(completed(job), completions=answers)

    assert claims.commit(worker_id, [outcome]).applied == {job.id}
    assert claims.commit(worker_id, [outcome]).already_mine == {job.id}
    assert claims.commit(new_worker(claims, slot="b"), [replace(outcome, attempt=2)]).fenced == {job.id}

    read = store.job(job.id)
    assert read is not None
    assert [entry.text for entry in read.completions] == [entry.text for entry in answers]
    assert [entry.choice_index for entry in read.completions] == list(range(128))


def test_a_commit_for_an_unknown_job_is_refused(claims: Claims) -> None:
    job = Outcome(uuid7(), 1, Status.COMPLETED, (choice(),))

    assert claims.commit(new_worker(claims), [job]).fenced == {job.id}


def held_by_another(store: Store, claims: Claims, job: ClaimedJob, worker_id: UUID) -> None:
    claims.release(worker_id)
    claims.claim(new_worker(claims, slot="other"), [job.id])


def done_by_another(store: Store, claims: Claims, job: ClaimedJob, worker_id: UUID) -> None:
    claims.release(worker_id)
    other = new_worker(claims, slot="other")
    claims.commit(other, [failed(again) for again in claims.claim(other, [job.id])])


def queued_again(store: Store, claims: Claims, job: ClaimedJob, worker_id: UUID) -> None:
    claims.release(worker_id)


def held_again_by_itself(store: Store, claims: Claims, job: ClaimedJob, worker_id: UUID) -> None:
    claims.release(worker_id)
    claims.claim(worker_id, [job.id])


def cancelled(store: Store, claims: Claims, job: ClaimedJob, worker_id: UUID) -> None:
    assert store.cancel(job.id) is Status.IN_PROGRESS


@pytest.mark.parametrize("happens", [held_by_another, done_by_another, queued_again, held_again_by_itself, cancelled])
def test_a_late_write_is_refused(
    store: Store, claims: Claims, happens: Callable[[Store, Claims, ClaimedJob, UUID], None]
) -> None:
    """The fence: seen red with the attempt, or the cancelling, taken out of the statement."""
    worker_id = new_worker(claims)
    job = submit_and_claim(store, claims, worker_id)
    happens(store, claims, job, worker_id)

    result = claims.commit(worker_id, [completed(job)])

    assert result == CommitResult(fenced=frozenset({job.id}))
    read = store.job(job.id)
    assert read is not None
    assert read.status is not Status.COMPLETED
    assert read.completions == ()


def test_an_attempt_of_another_worker_is_refused(store: Store, claims: Claims) -> None:
    """Attempt numbers repeat when a database fails over to a copy that lags; incarnations do not."""
    worker_id, other = new_worker(claims, slot="a"), new_worker(claims, slot="b")
    job = submit_and_claim(store, claims, worker_id)

    assert claims.commit(other, [completed(job)]) == CommitResult(fenced=frozenset({job.id}))
    assert claims.commit(worker_id, [completed(job)]).applied == {job.id}


def test_of_two_attempts_in_one_commit_the_later_counts(store: Store, claims: Claims) -> None:
    """Found by test_counts: the completions of both were stored, and their shared key failed the whole group."""
    worker_id = new_worker(claims)
    job = submit_and_claim(store, claims, worker_id)
    claims.release(worker_id)
    (again,) = claims.claim(worker_id, [job.id])
    late, current = completed(job), replace(completed(again), completions=(choice("second"),))

    assert claims.commit(worker_id, [current, late]) == CommitResult(applied=frozenset({job.id}))

    read = store.job(job.id)
    assert read is not None
    assert [completion.text for completion in read.completions] == ["second"]


def test_an_accepted_cancel_never_completes(store: Store, claims: Claims) -> None:
    worker_id = new_worker(claims)
    job = submit_and_claim(store, claims, worker_id)

    assert store.cancel(job.id) is Status.IN_PROGRESS
    assert claims.to_stop(worker_id) == [(job.id, Status.CANCELLED)]
    claims.commit(worker_id, [failed(job)])

    assert status_of(store, job.id) is Status.CANCELLED
    assert claims.to_stop(worker_id) == []


def test_a_worker_is_told_what_to_stop(store: Store, claims: Claims) -> None:
    worker_id = new_worker(claims)
    submit_and_claim(store, claims, worker_id)
    soon = submit_and_claim(store, claims, worker_id, deadline=datetime.now(UTC) + timedelta(seconds=0.2))
    while not (stop := claims.to_stop(worker_id)):
        pass

    assert stop == [(soon.id, Status.EXPIRED)]
    assert claims.to_stop(new_worker(claims, slot="other")) == []


def test_released_rows_are_queued_and_unannounced_again(store: Store, claims: Claims) -> None:
    worker_id = new_worker(claims)
    jobs = new_jobs(3)
    store.submit(jobs)
    claims.claim(worker_id, [hint.id for hint in store.take_unpublished(3)])

    assert claims.release(worker_id, [jobs[1].id, uuid7()]) == 1
    assert claims.release(worker_id) == 2
    assert claims.release(worker_id) == 0

    hints = store.take_unpublished(10)
    assert [hint.id for hint in hints] == [job.id for job in jobs]
    assert {hint.suspicion for hint in hints} == {0}
    (again,) = claims.claim(worker_id, [jobs[0].id])
    assert again.attempt == 2


def test_releasing_ends_what_was_cancelled_or_late(store: Store, claims: Claims) -> None:
    worker_id = new_worker(claims)
    cancelled_job = submit_and_claim(store, claims, worker_id)
    late = submit_and_claim(store, claims, worker_id, deadline=datetime.now(UTC) + timedelta(seconds=0.2))
    store.cancel(cancelled_job.id)
    while len(claims.to_stop(worker_id)) < 2:
        pass

    claims.release(worker_id)

    assert status_of(store, cancelled_job.id) is Status.CANCELLED
    assert status_of(store, late.id) is Status.EXPIRED


def test_another_workers_rows_are_not_released(store: Store, claims: Claims) -> None:
    worker_id, other = new_worker(claims, slot="a"), new_worker(claims, slot="b")
    job = submit_and_claim(store, claims, worker_id)

    assert claims.release(other, [job.id]) == 0
    assert status_of(store, job.id) is Status.IN_PROGRESS


def test_queued_rows_past_their_deadline_expire(store: Store, claims: Claims) -> None:
    late, later, good = new_job(deadline=PAST), new_job(deadline=PAST), new_job()
    store.submit([late, later, good])

    assert [claims.expire_queued(1), claims.expire_queued(10), claims.expire_queued(10)] == [1, 1, 0]

    assert store.statuses([late.id, later.id, good.id]) == {
        late.id: Status.EXPIRED,
        later.id: Status.EXPIRED,
        good.id: Status.QUEUED,
    }


def test_a_commit_after_the_lease_ran_out_counts_until_someone_reaps(store: Store, claims: Claims) -> None:
    worker_id = new_worker(claims)
    job = submit_and_claim(store, claims, worker_id)
    claims.heartbeat(worker_id, lease_seconds=SHORT)

    assert claims.commit(worker_id, [completed(job)]).applied == {job.id}
