"""Who may read a batch's input, and what becomes of what a reader writes that lost it; on both databases."""

import threading
import time
from uuid import UUID

import pytest

from models.batch_store import BatchStore
from models.claims import Claims
from models.errors import BatchClosed, IntakeLost, NotFound, RequestError
from models.ids import uuid7
from models.records import BatchRecord
from models.status import BatchStatus
from models.store import Store
from tests.integration.store.making import SHORT, lines, new_batch, new_file, new_worker

ERRORS = [{"code": "invalid_json", "message": "no JSON", "param": None, "line": 1}]


def batch_of_file(batches: BatchStore, **changes: object) -> UUID:
    return new_batch(batches, input_file_id=new_file(batches.database), **changes)


def read(batches: BatchStore, batch_id: UUID) -> BatchRecord:
    batch = batches.get(batch_id)
    assert batch is not None
    return batch


def take(batches: BatchStore, worker_id: UUID) -> UUID | None:
    batch = batches.take_intake(worker_id)
    return None if batch is None else batch.id


def lost(batches: BatchStore, claims: Claims) -> UUID:
    """A worker that took the only intake and whose lease ran out."""
    worker_id = new_worker(claims, slot="lost/0")
    assert take(batches, worker_id) is not None
    claims.heartbeat(worker_id, lease_seconds=SHORT)
    time.sleep(2 * SHORT)
    return worker_id


def test_one_worker_alone_takes_an_intake(batches: BatchStore, claims: Claims) -> None:
    batch_id = batch_of_file(batches)
    one, two = new_worker(claims), new_worker(claims, slot="host/1")

    assert take(batches, one) == batch_id
    assert take(batches, two) is None
    assert take(batches, one) == batch_id, "it asks again, so it lost its place"
    assert read(batches, batch_id).intake_owner == one


def test_workers_that_take_at_the_same_time_take_different_ones(batches: BatchStore, claims: Claims) -> None:
    ids = {batch_of_file(batches) for _ in range(8)}
    taken: list[UUID] = []
    start = threading.Barrier(4)

    def work(worker_ids: list[UUID]) -> None:
        start.wait()
        for worker_id in worker_ids:
            batch_id = take(batches, worker_id)
            if batch_id is not None:
                taken.append(batch_id)

    workers = [[new_worker(claims, slot=f"host/{n}/{m}") for m in range(4)] for n in range(4)]
    threads = [threading.Thread(target=work, args=(mine,)) for mine in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    while (left := take(batches, new_worker(claims, slot="host/9"))) is not None:  # one that others held for a moment
        taken.append(left)
    assert sorted(taken) == sorted(ids)


def test_higher_priority_is_read_first_then_the_older(batches: BatchStore, claims: Claims) -> None:
    ordinary = batch_of_file(batches)
    time.sleep(0.002)  # SQLite's clock counts milliseconds
    later = batch_of_file(batches)
    urgent = batch_of_file(batches, priority=9)

    taken = [take(batches, new_worker(claims, slot=f"host/{n}")) for n in range(4)]

    assert taken == [urgent, ordinary, later, None]


def test_nothing_to_take_without_a_lease_or_without_a_file(batches: BatchStore, claims: Claims) -> None:
    new_batch(batches)
    assert take(batches, new_worker(claims)) is None
    batch_of_file(batches)

    assert take(batches, uuid7()) is None
    late = new_worker(claims, slot="late/0", lease_seconds=SHORT)
    time.sleep(2 * SHORT)
    assert take(batches, late) is None


def test_what_is_read_or_final_is_not_taken(batches: BatchStore, claims: Claims) -> None:
    whole, failed, cancelled = (batch_of_file(batches) for _ in range(3))
    batches.end_intake(whole)
    batches.fail(failed, ERRORS)
    batches.cancel(cancelled)

    assert take(batches, new_worker(claims)) is None


def test_intake_of_a_dead_worker_is_taken_over_and_its_late_writes_are_refused(
    batches: BatchStore, claims: Claims
) -> None:
    batch_id = batch_of_file(batches)
    dead = lost(batches, claims)
    heir = new_worker(claims)

    assert take(batches, heir) == batch_id

    with pytest.raises(IntakeLost):
        batches.note_validated(batch_id, dead, 1)
    with pytest.raises(IntakeLost):
        batches.validated(batch_id, dead, 1)
    with pytest.raises(IntakeLost):
        batches.append(batch_id, lines(1), num_lines=1, num_bytes=1, owner=dead)
    batches.end_intake(batch_id, dead)
    batches.fail(batch_id, ERRORS, dead)
    batches.give_back_intake(batch_id, dead)
    batch = read(batches, batch_id)
    assert (batch.status, batch.num_total, batch.input_read) == (BatchStatus.VALIDATING, 0, False)
    assert batch.intake_owner == heir
    batches.append(batch_id, lines(1), num_lines=1, num_bytes=1, owner=heir)


def test_intake_given_back_is_there_for_the_next_at_once(batches: BatchStore, claims: Claims) -> None:
    batch_id = batch_of_file(batches)
    one, two = new_worker(claims), new_worker(claims, slot="host/1")
    assert take(batches, one) == batch_id

    batches.give_back_intake(batch_id, one)

    assert take(batches, two) == batch_id


def test_checked_input_is_in_progress_and_read_from_its_beginning(batches: BatchStore, claims: Claims) -> None:
    batch_id, owner = batch_of_file(batches), new_worker(claims)
    assert take(batches, owner) == batch_id
    batches.note_validated(batch_id, owner, 2)
    assert read(batches, batch_id).num_lines_read == 2

    batch = batches.validated(batch_id, owner, 3)

    assert (batch.status, batch.num_requests) == (BatchStatus.IN_PROGRESS, 3)
    assert (batch.num_lines_read, batch.num_bytes_read) == (0, 0)
    batches.append(batch_id, lines(3), num_lines=3, num_bytes=30, owner=owner)
    again = batches.validated(batch_id, owner, 3)
    assert (again.num_lines_read, again.num_bytes_read) == (3, 30), "a repeated call throws nothing away"
    batches.end_intake(batch_id, owner)
    assert read(batches, batch_id).intake_owner is None


def test_a_cancelled_batch_refuses_its_reader(batches: BatchStore, claims: Claims) -> None:
    batch_id, owner = batch_of_file(batches), new_worker(claims)
    assert take(batches, owner) == batch_id

    batches.cancel(batch_id)

    with pytest.raises(BatchClosed):
        batches.note_validated(batch_id, owner, 1)
    with pytest.raises(BatchClosed):
        batches.validated(batch_id, owner, 1)


def test_a_line_lives_no_longer_than_its_batch(batches: BatchStore) -> None:
    batch = read(batches, batch_of_file(batches, completion_window_seconds=60))
    assert batch.expires_at is not None
    early, late = batch.created_at, batch.expires_at.replace(year=batch.expires_at.year + 1)
    rows = [*lines(1, deadline=early), *lines(1, first=1, deadline=late), *lines(1, first=2)]

    batches.append(batch.id, rows, num_lines=3, num_bytes=3)

    assert [job.deadline for job in batches.results(batch.id)] == [early, batch.expires_at, batch.expires_at]


def test_only_a_batch_without_rows_expires_unread(batches: BatchStore, store: Store, claims: Claims) -> None:
    nothing, something, endless = (batch_of_file(batches, completion_window_seconds=w) for w in (1, 1, None))
    batches.append(something, lines(1), num_lines=1, num_bytes=1)
    claims.expire_queued(10)
    assert read(batches, nothing).status is BatchStatus.VALIDATING
    time.sleep(1.1)

    claims.expire_queued(10)

    batch = read(batches, nothing)
    assert (batch.status, batch.num_total) == (BatchStatus.EXPIRED, 0)
    assert batch.expired_at is not None
    assert read(batches, something).status is BatchStatus.VALIDATING
    assert read(batches, endless).status is BatchStatus.VALIDATING
    assert take(batches, new_worker(claims)) in (something, endless)


def test_the_input_file_must_be_there_the_tenants_own_and_meant_for_batches(batches: BatchStore) -> None:
    with pytest.raises(NotFound):
        new_batch(batches, input_file_id=uuid7())
    with pytest.raises(NotFound):
        new_batch(batches, input_file_id=new_file(batches.database, tenant="other"))
    with pytest.raises(RequestError) as refusal:
        new_batch(batches, input_file_id=new_file(batches.database, purpose="user_data"))
    assert (refusal.value.error_code, refusal.value.param) == ("invalid_file", "input_file_id")
    assert batches.list("default", limit=10) == []
