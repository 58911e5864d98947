"""The queue between feeder and engine."""

import threading
from uuid import UUID

import pytest

from models.records import ClaimedJob
from worker.deliveries import Row
from worker.staging import PATIENCE, Prepared, StagedRow, Staging


def row(number: int, *, priority: int = 4, max_tokens: int | None = 16) -> Row:
    body = {} if max_tokens is None else {"max_tokens": max_tokens}
    return Row(UUID(int=0), ClaimedJob(UUID(int=number), 1, "/v1/completions", "m", body, priority, None, 0, "default"))


def prepared(*rows: Row) -> list[Prepared]:
    return [(held, str(held.job.id), held.job.id.int) for held in rows]


def numbers(taken: list[StagedRow]) -> list[int]:
    return [entry.sequence for entry in taken]


def take(staging: Staging, count: int) -> list[int]:
    return numbers(staging.take(count, longest_first=not staging.is_full))


def test_rows_leave_a_full_queue_in_the_order_they_came_the_urgent_first() -> None:
    staging = Staging(4)
    staging.put(prepared(row(1, max_tokens=5), row(2, max_tokens=50), row(3, priority=9, max_tokens=1), row(4)))
    assert take(staging, 2) == [3, 1]
    assert len(staging) == 2


def test_the_longest_leave_first_once_nothing_more_waits_outside() -> None:
    staging = Staging(5)
    staging.put(prepared(row(1, max_tokens=5), row(2, max_tokens=50), row(3, priority=9, max_tokens=1)))
    staging.put(prepared(row(4, max_tokens=None)))
    assert take(staging, 9) == [3, 4, 2, 1]


def test_a_short_row_is_not_overtaken_for_ever() -> None:
    staging = Staging(3)
    staging.put(prepared(row(0, max_tokens=1)))
    left = []
    for number in range(1, 2 * PATIENCE * 3):
        staging.put(prepared(row(number)))
        left += take(staging, 1)
    assert left.index(0) == PATIENCE * 3


@pytest.mark.parametrize("num_ahead", [1, 4])  # not full when taken from, and full
def test_a_row_is_not_kept_for_ever_by_more_urgent_ones(num_ahead: int) -> None:
    staging = Staging(3)
    staging.put(prepared(row(0, priority=0), *(row(100 + number, priority=9) for number in range(num_ahead - 1))))
    left = []
    for number in range(1, 2 * PATIENCE * 3):
        staging.put(prepared(row(number, priority=9)))
        left += take(staging, 1)
    assert left.index(0) == PATIENCE * 3


def test_named_rows_are_taken_out_of_the_middle() -> None:
    staging = Staging(4)
    staging.put(prepared(*map(row, range(4))))
    assert {job_id.int for job_id in staging.job_ids()} == {0, 1, 2, 3}
    staging.remove({UUID(int=1), UUID(int=9)})
    assert take(staging, 9) == [0, 2, 3]


def test_room_is_waited_for_and_no_longer_than_asked() -> None:
    staging = Staging(1)
    staging.put(prepared(row(1)))
    assert staging.wait_for_room(timeout_seconds=0.01) == 0
    threading.Timer(0.01, take, (staging, 1)).start()
    assert staging.wait_for_room(timeout_seconds=10) == 1


def test_there_is_room_for_rows_whose_slots_cannot_be_filled_yet_and_for_an_eighth_more() -> None:
    staging = Staging(16)
    assert staging.room == 16 + 2
    staging.put(prepared(*map(row, range(18))))
    threading.Timer(0.01, staging.note_unfilled, (5,)).start()
    assert staging.wait_for_room(timeout_seconds=10) == 5
    staging.note_unfilled(0)
    assert staging.wait_for_room(timeout_seconds=0.01) == 0
    assert staging.is_full
