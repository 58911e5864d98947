"""Batches: intake, counts, and how they end, on both databases."""

import time
from dataclasses import replace
from uuid import UUID

import pytest

from models import cancelling
from models.batch_store import BatchStore
from models.claims import Claims
from models.database import Database
from models.errors import BatchClosed, NotFound
from models.ids import uuid7
from models.records import BatchRecord
from models.status import BatchStatus, Status
from models.store import Store
from tests.integration.store.making import (
    MODEL,
    REFUSAL,
    completed,
    failed,
    lines,
    new_batch,
    new_file,
    new_worker,
    whole_batch,
)


def read(batches: BatchStore, batch_id: UUID) -> BatchRecord:
    batch = batches.get(batch_id)
    assert batch is not None
    return batch


def work_off(batches: BatchStore, claims: Claims, batch_id: UUID) -> None:
    """Complete every queued row of the batch."""
    worker_id = new_worker(claims)
    ids = [job.id for job in batches.results(batch_id)]
    claims.commit(worker_id, [completed(job) for job in claims.claim(worker_id, ids)])


def test_a_new_batch_reads_back_as_it_came(batches: BatchStore) -> None:
    file_id = new_file(batches.database, tenant="acme")
    batch_id = new_batch(
        batches,
        tenant="acme",
        fingerprint="f1",
        input_file_id=file_id,
        completion_window_seconds=3600,
        priority=2,
        metadata={"run": "nightly"},
    )

    batch = read(batches, batch_id)

    assert (batch.tenant, batch.fingerprint, batch.input_file_id, batch.priority) == ("acme", "f1", file_id, 2)
    assert batch.metadata == {"run": "nightly"}
    assert batch.status is BatchStatus.VALIDATING
    assert batch.expires_at is not None
    assert abs((batch.expires_at - batch.created_at).total_seconds() - 3600) < 0.1
    assert batches.get(batch_id, "other") is None
    assert batches.get(uuid7()) is None


def test_the_latest_batch_of_a_fingerprint_is_found(batches: BatchStore) -> None:
    new_batch(batches, fingerprint="f")
    time.sleep(0.002)  # SQLite's clock counts milliseconds
    latest = new_batch(batches, fingerprint="f")

    found = batches.find("f")

    assert found is not None
    assert found.id == latest
    assert batches.find("f", "other") is None
    assert batches.find("g") is None


def test_a_chunk_is_stored_with_its_progress(batches: BatchStore) -> None:
    batch_id = new_batch(batches, completion_window_seconds=3600)
    rows = lines(3)

    batches.append(batch_id, rows, num_lines=4, num_bytes=500)

    batch = read(batches, batch_id)
    assert (batch.num_total, batch.num_lines_read, batch.num_bytes_read) == (3, 4, 500)
    assert batch.num_unfinished == 3
    stored = batches.results(batch_id)
    assert [job.id for job in stored] == [row.id for row in rows]
    assert {job.deadline for job in stored} == {batch.expires_at}


def test_a_chunk_stored_twice_is_stored_once(batches: BatchStore) -> None:
    """The answer to a commit may be lost: intake then sends the chunk again, under new ids."""
    batch_id = new_batch(batches)
    rows = lines(3)
    batches.append(batch_id, rows, num_lines=3, num_bytes=300)

    batches.append(batch_id, [replace(row, id=uuid7()) for row in rows], num_lines=3, num_bytes=300)
    batches.append(batch_id, lines(3, first=2), num_lines=5, num_bytes=500)
    batches.append(batch_id, rows[:1], num_lines=1, num_bytes=100)

    batch = read(batches, batch_id)
    assert (batch.num_total, batch.num_failed, batch.num_lines_read, batch.num_bytes_read) == (5, 0, 5, 500)
    assert [job.line for job in batches.results(batch_id)] == [0, 1, 2, 3, 4]


def test_a_custom_id_used_before_makes_its_line_refused(batches: BatchStore) -> None:
    batch_id = new_batch(batches)
    rows = lines(6)
    rows[1] = replace(rows[1], custom_id=rows[0].custom_id)  # in the same chunk
    rows[4] = replace(rows[4], custom_id=rows[2].custom_id)  # in an earlier chunk
    rows[5] = replace(rows[5], custom_id=rows[2].custom_id, error=REFUSAL)
    batches.append(batch_id, rows[:3], num_lines=3, num_bytes=3)

    batches.append(batch_id, rows[3:], num_lines=6, num_bytes=6)

    stored = batches.results(batch_id)
    assert [job.status for job in stored] == ["queued", "failed", "queued", "queued", "failed", "failed"]
    assert stored[1].custom_id == rows[0].custom_id
    assert stored[1].error is not None
    assert stored[1].error.code == "duplicate_custom_id"
    assert "line 1" in stored[1].error.message
    batch = read(batches, batch_id)
    assert (batch.num_total, batch.num_failed) == (6, 3)


def test_lines_without_a_custom_id_are_no_duplicates(batches: BatchStore) -> None:
    batch_id = new_batch(batches)

    batches.append(batch_id, [replace(row, custom_id=None) for row in lines(3)], num_lines=3, num_bytes=3)

    assert read(batches, batch_id).num_failed == 0


def test_the_same_custom_id_in_two_batches_is_fine(batches: BatchStore) -> None:
    for _ in range(2):
        batch_id = whole_batch(batches, lines(2))

        assert read(batches, batch_id).num_failed == 0


def test_a_batch_completes_with_its_last_row_and_counts_tokens(batches: BatchStore, claims: Claims) -> None:
    worker_id = new_worker(claims)
    rows = lines(3)
    batch_id = whole_batch(batches, [rows[0], rows[1], replace(rows[2], error=REFUSAL)])
    one, two = claims.claim(worker_id, [row.id for row in rows])

    claims.commit(worker_id, [completed(one)])
    assert read(batches, batch_id).status is BatchStatus.IN_PROGRESS
    claims.commit(worker_id, [failed(two)])

    batch = read(batches, batch_id)
    assert batch.status is BatchStatus.COMPLETED
    assert (batch.num_total, batch.num_completed, batch.num_failed) == (3, 1, 2)
    assert (batch.prompt_tokens, batch.output_tokens) == (3, 2)
    assert batch.in_progress_at is not None
    assert batch.completed_at is not None
    assert batch.finalizing_at is not None


def test_a_batch_does_not_complete_while_its_input_is_read(batches: BatchStore, claims: Claims) -> None:
    batch_id = new_batch(batches)
    batches.append(batch_id, lines(2), num_lines=2, num_bytes=2)
    work_off(batches, claims, batch_id)
    assert read(batches, batch_id).status is BatchStatus.VALIDATING

    batches.end_intake(batch_id)
    batches.end_intake(batch_id)

    assert read(batches, batch_id).status is BatchStatus.COMPLETED


def test_an_empty_batch_completes_at_once(batches: BatchStore) -> None:
    assert read(batches, whole_batch(batches, [])).status is BatchStatus.COMPLETED


def test_a_repeated_commit_counts_once(batches: BatchStore, claims: Claims) -> None:
    worker_id = new_worker(claims)
    rows = lines(2)
    batch_id = whole_batch(batches, rows)
    claimed = claims.claim(worker_id, [row.id for row in rows])

    for _ in range(3):
        claims.commit(worker_id, [completed(claimed[0])])

    batch = read(batches, batch_id)
    assert (batch.num_completed, batch.output_tokens) == (1, 2)


def test_no_line_is_added_once_the_intake_ended(batches: BatchStore) -> None:
    batch_id = whole_batch(batches, lines(1))

    with pytest.raises(BatchClosed):
        batches.append(batch_id, lines(1, first=1), num_lines=2, num_bytes=2)
    with pytest.raises(NotFound):
        batches.append(uuid7(), lines(1), num_lines=1, num_bytes=1)


def test_cancelling_a_batch_ends_its_queued_rows_at_once_and_the_others_by_their_owner(
    batches: BatchStore, claims: Claims
) -> None:
    worker_id = new_worker(claims)
    rows = lines(4)
    batch_id = whole_batch(batches, rows)
    done, running = claims.claim(worker_id, [rows[0].id, rows[1].id])
    claims.commit(worker_id, [completed(done)])

    batch = batches.cancel(batch_id)

    assert batch is not None
    assert (batch.status, batch.num_completed, batch.num_cancelled) == (BatchStatus.CANCELLING, 1, 2)
    assert claims.to_stop(worker_id) == [(running.id, Status.CANCELLED)]
    claims.commit(worker_id, [completed(running)])
    batch = read(batches, batch_id)
    assert (batch.status, batch.num_completed, batch.num_cancelled) == (BatchStatus.CANCELLED, 1, 3)
    assert batch.cancelling_at is not None
    assert batch.cancelled_at is not None


def test_cancelling_a_batch_that_is_being_read_ends_its_intake(batches: BatchStore) -> None:
    batch_id = new_batch(batches)
    batches.append(batch_id, lines(2), num_lines=2, num_bytes=2)

    batch = batches.cancel(batch_id)

    assert batch is not None
    assert (batch.status, batch.num_cancelled) == (BatchStatus.CANCELLED, 2)
    with pytest.raises(BatchClosed):
        batches.append(batch_id, lines(1, first=2), num_lines=3, num_bytes=3)
    batches.end_intake(batch_id)
    assert read(batches, batch_id).status is BatchStatus.CANCELLED


def test_cancelling_a_batch_without_rows_ends_it(batches: BatchStore) -> None:
    batch = batches.cancel(new_batch(batches))

    assert batch is not None
    assert batch.status is BatchStatus.CANCELLED


def test_cancelling_a_final_or_foreign_batch_changes_nothing(batches: BatchStore) -> None:
    done = whole_batch(batches, [])
    foreign = whole_batch(batches, lines(1), tenant="acme")

    batch = batches.cancel(done)
    assert batch is not None
    assert batch.status is BatchStatus.COMPLETED
    assert batches.cancel(foreign, "other") is None
    assert read(batches, foreign).status is BatchStatus.IN_PROGRESS
    assert batches.cancel(uuid7()) is None


def test_cancelling_goes_by_chunks(batches: BatchStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancelling, "CHUNK", 3)
    batch_id = whole_batch(batches, lines(10))

    batch = batches.cancel(batch_id)

    assert batch is not None
    assert (batch.status, batch.num_cancelled) == (BatchStatus.CANCELLED, 10)


def test_cancelling_cut_short_by_a_crash_is_resumed(batches: BatchStore, claims: Claims, database: Database) -> None:
    batch_id = whole_batch(batches, lines(3))
    database.write(lambda connection: cancelling.begin(connection, batch_id, None))
    assert read(batches, batch_id).status is BatchStatus.CANCELLING

    assert claims.resume_cancelling() == 3
    assert claims.resume_cancelling() == 0

    assert read(batches, batch_id).status is BatchStatus.CANCELLED


def test_a_batch_with_bad_input_fails_and_its_rows_end(batches: BatchStore, store: Store) -> None:
    batch_id = new_batch(batches)
    batches.append(batch_id, lines(2), num_lines=2, num_bytes=2)
    errors = [{"code": "too_many_tasks", "message": "too many lines", "line": 3, "param": None}]

    batches.fail(batch_id, errors)

    batch = read(batches, batch_id)
    assert (batch.status, batch.errors, batch.num_cancelled) == (BatchStatus.FAILED, errors, 2)
    assert store.queue_depth() == {}


def test_a_batch_whose_window_passed_expires(batches: BatchStore, claims: Claims) -> None:
    batch_id = whole_batch(batches, lines(2), completion_window_seconds=1)
    give_up_at = time.monotonic() + 10
    while claims.expire_queued(10) == 0 and time.monotonic() < give_up_at:
        time.sleep(0.05)

    batch = read(batches, batch_id)
    assert (batch.status, batch.num_expired) == (BatchStatus.EXPIRED, 2)
    assert batch.expired_at is not None
    assert batch.completed_at is None


def test_a_row_that_expires_by_itself_does_not_expire_its_batch(batches: BatchStore, claims: Claims) -> None:
    batch = read(batches, new_batch(batches))
    batches.append(batch.id, lines(1, deadline=batch.created_at), num_lines=1, num_bytes=1)
    batches.end_intake(batch.id)

    claims.expire_queued(10)

    assert read(batches, batch.id).status is BatchStatus.COMPLETED


def test_results_come_in_line_order_page_by_page(batches: BatchStore) -> None:
    batch_id = new_batch(batches)
    for first in (4, 0, 8):
        batches.append(batch_id, lines(4, first=first), num_lines=12, num_bytes=0)
    pages = [batches.results(batch_id, limit=5)]
    while pages[-1]:
        pages.append(batches.results(batch_id, after_line=pages[-1][-1].line or 0, limit=5))

    assert [job.line for page in pages for job in page] == list(range(12))
    assert [len(page) for page in pages] == [5, 5, 2, 0]


def test_rows_of_a_batch_wait_in_the_same_queue(batches: BatchStore, store: Store) -> None:
    rows = lines(2, priority=9)
    whole_batch(batches, rows)

    assert [hint.id for hint in store.take_unpublished(10, model=MODEL)] == [row.id for row in rows]
