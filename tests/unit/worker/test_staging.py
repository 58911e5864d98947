"""The queue between feeder and engine."""

import threading
from uuid import UUID

from models.records import ClaimedJob
from worker.deliveries import Row
from worker.staging import Staging


def row(number: int) -> Row:
    return Row(UUID(int=0), ClaimedJob(UUID(int=number), 1, "/v1/completions", "m", {}, 4, None, 0, "default"))


def test_rows_leave_in_the_order_they_came() -> None:
    staging = Staging()
    staging.put([(row(1), "1", "a"), (row(2), "2", "b"), (row(3), "3", "c")])
    assert [entry.sequence for entry in staging.take(2)] == ["a", "b"]
    assert len(staging) == 1


def test_named_rows_are_taken_out_of_the_middle() -> None:
    staging = Staging()
    staging.put([(row(number), str(number), number) for number in range(4)])
    assert {job_id.int for job_id in staging.job_ids()} == {0, 1, 2, 3}
    staging.remove({UUID(int=1), UUID(int=9)})
    assert [entry.sequence for entry in staging.take(9)] == [0, 2, 3]


def test_room_is_waited_for_and_no_longer_than_asked() -> None:
    staging = Staging()
    staging.put([(row(1), "1", "a")])
    assert staging.wait_for_room(1, timeout_seconds=0.01) == 0
    threading.Timer(0.01, staging.take, (1,)).start()
    assert staging.wait_for_room(1, timeout_seconds=10) == 1
