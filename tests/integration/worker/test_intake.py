"""Batch files read by real workers: good and bad ones, and readers that die, stop, or stand still in the middle."""

import signal
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import orjson
import pytest

from models.status import BatchStatus, Status
from tests.databases import ONE_IS_ENOUGH
from tests.integration.worker.batches import PATIENCE_SECONDS, Desk, line
from tests.integration.worker.conftest import Station
from tests.waiting import wait_until

MANY = 20_000  # lines that take a worker seconds, so that something can happen meanwhile
SHORT_LEASE = {"BATCHMILL_LEASE_SECONDS": "2"}


@pytest.fixture
def desk(station: Station) -> Desk:
    return Desk(station)


@pytest.fixture
def sqlite_desk(sqlite_station: Station) -> Desk:
    return Desk(sqlite_station)


def many(number: int = MANY) -> Iterator[bytes]:
    return (line(n) for n in range(number))


def all_lines_once(desk: Desk, batch_id: UUID, number: int = MANY) -> None:
    """The batch is complete, and each line is one row in its place, run once."""
    batch = desk.wait(batch_id)
    assert (batch.status, batch.num_total, batch.num_completed) == (BatchStatus.COMPLETED, number, number)
    rows = [(row.line, row.custom_id) for row in desk.rows(batch_id)]
    assert rows == [(n + 1, f"r{n}") for n in range(number)]


def test_good_file_becomes_rows_and_completes(desk: Desk) -> None:
    desk.station.start_worker()
    file = [b"\xef\xbb\xbf" + line(0), b"\n", line(1, priority=9), b"  \r\n", line(2, ttl=3600), line(3).rstrip(b"\n")]

    batch_id = desk.submit(file, priority=2, completion_window_seconds=7200, max_attempts=3)

    batch = desk.wait(batch_id)
    assert (batch.status, batch.num_requests, batch.num_total, batch.num_completed) == ("completed", 4, 4, 4)
    assert (batch.input_read, batch.intake_owner, batch.num_lines_read) == (True, None, 6)
    assert batch.num_bytes_read == sum(map(len, file))
    rows = list(desk.rows(batch_id))
    assert [row.line for row in rows] == [1, 3, 5, 6]
    assert [row.priority for row in rows] == [2, 9, 2, 2]
    assert {row.max_attempts for row in rows} == {3}
    assert rows[0].deadline == rows[1].deadline == batch.expires_at
    assert batch.expires_at is not None
    assert rows[2].deadline is not None
    assert rows[2].deadline < batch.expires_at


def test_bad_bodies_fail_alone(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    desk.station.start_worker(BATCHMILL_MODEL_ALIASES='{"gpt-4o": "noop", "elsewhere": "not-loaded"}')
    bodies: list[dict[str, Any]] = [
        {},
        {"temperature": 5},
        {"frobnicate": 1},
        {"model": "unknown"},
        {"model": None},
        {"prompt": ""},
        {"stream": True},
        {"model": "gpt-4o"},
        {"model": "elsewhere"},
    ]
    without_body = orjson.dumps({"custom_id": "r9", "method": "POST", "url": "/v1/completions"}) + b"\n"

    batch_id = desk.submit([*(line(n, **body) for n, body in enumerate(bodies)), without_body])

    wait_until(lambda: desk.read(batch_id).num_unfinished == 1 and desk.read(batch_id).input_read, PATIENCE_SECONDS)
    rows = list(desk.rows(batch_id))
    assert [row.error.code if row.error else row.status for row in rows] == [
        "completed",
        "invalid_value",
        "unknown_parameter",
        "model_not_found",
        "missing_required_parameter",
        "empty_prompt",
        "unsupported_parameter",
        "completed",
        "queued",  # its worker may come yet: the operator named it
        "missing_required_parameter",
    ]
    assert (rows[7].model, rows[8].model) == ("noop", "not-loaded")
    assert [row.custom_id for row in rows] == [f"r{n}" for n in range(10)]


def bad(number: int, **changes: object) -> bytes:
    return orjson.dumps(orjson.loads(line(number)) | changes) + b"\n"


@pytest.mark.parametrize(
    ("file", "code", "number"),
    [
        ([], "empty_file", None),
        ([b"\n", b"   \n"], "empty_file", None),
        ([line(0), b"\n", b"{nope}\n"], "invalid_json", 3),
        ([line(0), bad(1, custom_id=None)], "invalid_custom_id", 2),
        ([line(0), line(1), line(0)], "duplicate_custom_id", 3),
        ([line(0), bad(1, method="GET")], "invalid_method", 2),
        ([line(0), bad(1, url="/v1/chat/completions")], "mismatched_endpoint", 2),
        ([line(0), line(1, prompt="x" * 3000)], "line_too_long", 2),
        ([line(n) for n in range(7)], "too_many_requests_in_file", 7),
    ],
)
def test_bad_file_fails_its_batch(sqlite_desk: Desk, file: list[bytes], code: str, number: int | None) -> None:
    desk = sqlite_desk
    desk.station.start_worker(BATCHMILL_MAX_LINE_BYTES="2048", BATCHMILL_MAX_BATCH_REQUESTS="6")

    batch = desk.wait(desk.submit(file))

    assert (batch.status, batch.num_total) == (BatchStatus.FAILED, 0)
    assert [(error["code"], error["line"]) for error in batch.errors] == [(code, number)]
    assert batch.failed_at is not None
    assert list(desk.rows(batch.id)) == []


def test_input_file_that_is_gone_fails_its_batch(sqlite_desk: Desk) -> None:
    batch_id = sqlite_desk.submit([line(0)], ring=False)
    file_id = sqlite_desk.read(batch_id).input_file_id
    assert file_id is not None
    sqlite_desk.blobs.delete(file_id)

    sqlite_desk.station.start_worker()

    assert [error["code"] for error in sqlite_desk.wait(batch_id).errors] == ["invalid_file"]


def test_repeated_id_is_found_however_far_apart(sqlite_desk: Desk) -> None:
    sqlite_desk.station.start_worker()

    batch = sqlite_desk.wait(sqlite_desk.submit([*many(), line(7)]))

    assert [(error["code"], error["line"]) for error in batch.errors] == [("duplicate_custom_id", MANY + 1)]


@ONE_IS_ENOUGH
def test_first_rows_are_decoded_while_later_ones_are_inserted(desk: Desk) -> None:
    desk.station.start_worker()
    batch_id = desk.submit(many())

    wait_until(lambda: desk.read(batch_id).num_completed > 0, PATIENCE_SECONDS)

    batch = desk.read(batch_id)
    assert batch.status is BatchStatus.IN_PROGRESS
    assert (batch.num_requests, batch.input_read) == (MANY, False)
    all_lines_once(desk, batch_id)


def test_lost_message_is_made_good(desk: Desk) -> None:
    desk.station.start_worker()

    batch_id = desk.submit(many(10), ring=False)

    all_lines_once(desk, batch_id, 10)


@ONE_IS_ENOUGH
def test_repeated_messages_and_two_workers_read_every_line_once(desk: Desk) -> None:
    for _ in range(2):
        desk.station.start_worker()
    ids = [desk.submit(many(5000)) for _ in range(3)]
    for batch_id in ids * 3:
        desk.ring(batch_id)

    for batch_id in ids:
        all_lines_once(desk, batch_id, 5000)


@ONE_IS_ENOUGH
def test_reader_killed_in_either_pass_is_followed_by_another(desk: Desk) -> None:
    """Each kill in the middle of a pass; the lines and the offset stored by then are where the next one goes on."""
    station = desk.station
    workers = [station.start_worker(**SHORT_LEASE) for _ in range(3)]
    batch_id = desk.submit(many())

    wait_until(lambda: desk.read(batch_id).intake_owner is not None, PATIENCE_SECONDS)
    assert desk.read(batch_id).num_total == 0, "the first pass was over before it could be cut short"
    kill_reader(desk, batch_id, workers)
    desk.wait_for_lines(batch_id, 1000)
    assert not desk.read(batch_id).input_read
    kill_reader(desk, batch_id, workers)

    all_lines_once(desk, batch_id)


def kill_reader(desk: Desk, batch_id: UUID, workers: list[Any]) -> None:
    owner = desk.read(batch_id).intake_owner
    (pid,) = [worker.pid for worker in desk.station.store.workers() if worker.id == owner]
    (reader,) = [worker for worker in workers if worker.pid == pid]
    reader.kill()
    reader.wait()


@ONE_IS_ENOUGH
def test_stopped_worker_gives_the_intake_back_at_a_chunks_end(desk: Desk) -> None:
    """The lease is long: without giving back, the other one could not go on for a minute."""
    first = desk.station.start_worker(BATCHMILL_LEASE_SECONDS="60")
    batch_id = desk.submit(many())
    desk.wait_for_lines(batch_id, 1000)
    first.send_signal(signal.SIGTERM)
    assert first.wait(PATIENCE_SECONDS) == 0
    batch = desk.read(batch_id)
    assert (batch.input_read, batch.intake_owner) == (False, None)
    assert 0 < batch.num_total < MANY

    desk.station.start_worker()

    all_lines_once(desk, batch_id)


@ONE_IS_ENOUGH
def test_reader_that_stood_still_past_its_lease_appends_no_more(desk: Desk) -> None:
    """The fence. The reader is stopped where it has read a chunk; when it goes on, another one reads the batch."""
    slow = desk.station.start_worker(**SHORT_LEASE)
    batch_id = desk.submit(many())
    desk.wait_for_lines(batch_id, 1000)
    desk.station.freeze(slow)
    owner = desk.read(batch_id).intake_owner
    assert owner is not None
    desk.station.start_worker()
    wait_until(lambda: desk.read(batch_id).intake_owner not in (None, owner) or desk.read(batch_id).input_read)

    slow.send_signal(signal.SIGCONT)

    all_lines_once(desk, batch_id)
    wait_until(lambda: "Another worker reads" in desk.station.log() or "takes no more lines" in desk.station.log())


def test_batch_cancelled_while_it_is_read_takes_no_more_lines(desk: Desk) -> None:
    desk.station.start_worker()
    batch_id = desk.submit(many())
    desk.wait_for_lines(batch_id, 1000)

    desk.batches.cancel(batch_id)

    batch = desk.wait(batch_id)
    assert batch.status is BatchStatus.CANCELLED
    assert batch.num_total < MANY
    next_one = desk.submit(many(10))
    all_lines_once(desk, next_one, 10)
    assert desk.read(batch_id).num_total == batch.num_total


def test_batch_whose_window_passed_unread_expires(sqlite_desk: Desk) -> None:
    batch_id = sqlite_desk.submit(many(3), ring=False, completion_window_seconds=1)
    time.sleep(1.1)

    sqlite_desk.station.start_worker()

    assert sqlite_desk.wait(batch_id).status is BatchStatus.EXPIRED


def test_mixed_models_go_each_to_its_queue(sqlite_desk: Desk) -> None:
    """Nobody serves the second model but a worker of this test, which claims by hand."""
    desk, number = sqlite_desk, 20_000
    desk.station.start_worker(BATCHMILL_MAX_BATCH_REQUESTS=str(number), BATCHMILL_MODEL_ALIASES='{"b": "other"}')
    batch_id = desk.submit(line(n, model="b" if n % 10 == 0 else "noop", max_tokens=1) for n in range(number))

    wait_until(lambda: desk.read(batch_id).input_read, 2 * PATIENCE_SECONDS)

    assert desk.read(batch_id).num_total == number
    wait_until(lambda: desk.read(batch_id).num_completed == number * 9 // 10, 2 * PATIENCE_SECONDS)
    left = desk.batches.results(batch_id, status=Status.QUEUED, limit=number)
    assert {row.model for row in left} == {"other"}
    assert [row.line for row in left] == list(range(1, number + 1, 10))
    assert {True} <= {row.published_at is not None for row in left}  # the first of them: a list holds no more
