"""A batch's row to the batch object, without a database."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from openai.types import Batch

from api.rendering.batches import Surroundings, batch_body, result_line, until_unfinished
from models.records import BatchRecord, ErrorCount, JobError
from models.status import BatchStatus, Status
from tests.unit.api.test_rendering import job, unfinished

ID, INPUT = UUID("018f0000-0000-7000-8000-00000000000b"), UUID("018f0000-0000-7000-8000-0000000000f1")
OUTPUT, ERRORS = UUID("018f0000-0000-7000-8000-0000000000f2"), UUID("018f0000-0000-7000-8000-0000000000f3")
AT = datetime(2025, 1, 2, 3, 4, 5, 600_000, tzinfo=UTC)
SECONDS = int(AT.timestamp())
NEW = BatchRecord(
    id=ID,
    tenant="default",
    endpoint="/v1/completions",
    model=None,
    status=BatchStatus.VALIDATING,
    fingerprint=None,
    input_file_id=INPUT,
    completion_window_seconds=86_400,
    priority=4,
    metadata={"night": "1"},
    errors=[],
    num_total=0,
    num_completed=0,
    num_failed=0,
    num_cancelled=0,
    num_expired=0,
    prompt_tokens=0,
    output_tokens=0,
    num_lines_read=0,
    num_bytes_read=0,
    created_at=AT,
    expires_at=AT + timedelta(days=1),
    in_progress_at=None,
    finalizing_at=None,
    completed_at=None,
    failed_at=None,
    expired_at=None,
    cancelling_at=None,
    cancelled_at=None,
    output_file_id=OUTPUT,
    error_file_id=ERRORS,
    output_expires_after_seconds=None,
    num_requests=None,
    input_read=False,
    intake_owner=None,
    completion_window="1d",
    max_attempts=None,
)
RUNNING = replace(
    NEW,
    status=BatchStatus.IN_PROGRESS,
    in_progress_at=AT,
    num_requests=10,
    num_total=8,
    num_completed=3,
    num_failed=1,
    prompt_tokens=30,
    output_tokens=40,
)
OVER = replace(
    RUNNING,
    status=BatchStatus.COMPLETED,
    num_total=10,
    num_completed=9,
    finalizing_at=AT + timedelta(seconds=20),
    completed_at=AT + timedelta(seconds=20),
    input_read=True,
)


def body(batch: BatchRecord, *, after_seconds: float = 0, **around: Any) -> dict[str, Any]:  # noqa: ANN401
    """As a client reads it, some time after AT."""
    surroundings = Surroundings(AT + timedelta(seconds=after_seconds), **around)
    read: dict[str, Any] = orjson.loads(orjson.dumps(batch_body(batch, surroundings)))
    return read


def test_new_batch_has_openais_shape() -> None:
    found = body(NEW)

    assert found.keys() >= Batch.model_fields.keys()
    assert found["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert (found["id"], found["input_file_id"]) == (f"batch_{ID.hex}", f"file-{INPUT.hex}")
    assert (found["created_at"], found["expires_at"], found["in_progress_at"]) == (SECONDS, SECONDS + 86_400, None)
    assert (found["errors"], found["output_file_id"], found["error_file_id"]) == (None, None, None)
    assert (found["completion_window"], found["metadata"]) == ("1d", {"night": "1"})
    assert Batch.model_validate(found | {"completion_window": "24h"}).usage is not None


def test_window_known_by_its_length_alone_is_written_out() -> None:
    assert body(replace(NEW, completion_window=None))["completion_window"] == "24h"


def test_running_batch_names_its_output_as_partial() -> None:
    found = body(RUNNING)

    assert (found["output_file_id"], found["error_file_id"]) == (None, None)
    assert found["partial_output_file_id"] == f"file-{OUTPUT.hex}"


@pytest.mark.parametrize(
    ("changes", "has_output", "has_errors"),
    [
        ({}, True, True),
        ({"num_completed": 10, "num_failed": 0}, True, False),
        ({"num_completed": 0, "num_failed": 10}, False, True),
        ({"num_total": 0, "num_completed": 0, "num_failed": 0}, False, False),
        ({"status": BatchStatus.CANCELLED, "num_completed": 0, "num_failed": 0, "num_cancelled": 10}, False, True),
        ({"status": BatchStatus.EXPIRED, "num_failed": 0, "num_expired": 1}, True, True),
        ({"status": BatchStatus.FAILED, "num_completed": 0, "num_failed": 0, "num_cancelled": 10}, False, False),
    ],
)
def test_final_batch_names_the_files_that_have_a_line(
    changes: dict[str, Any], has_output: bool, has_errors: bool
) -> None:
    found = body(replace(OVER, **changes))

    assert found["output_file_id"] == (f"file-{OUTPUT.hex}" if has_output else None)
    assert found["error_file_id"] == (f"file-{ERRORS.hex}" if has_errors else None)
    assert found["partial_output_file_id"] is None


def test_counts_add_up_to_the_total_while_rows_still_come_in() -> None:
    found = body(RUNNING, num_running=2)

    assert found["request_counts"] == {"total": 10, "completed": 3, "failed": 1}
    assert found["counts"] == {"queued": 4, "running": 2, "completed": 3, "failed": 1, "cancelled": 0, "expired": 0}


@pytest.mark.parametrize(
    ("status", "name"),
    [(BatchStatus.CANCELLED, "cancelled"), (BatchStatus.EXPIRED, "expired"), (BatchStatus.FAILED, "cancelled")],
)
def test_requests_that_never_became_rows_are_counted_at_the_end(status: BatchStatus, name: str) -> None:
    ended: dict[str, Any] = {"num_requests": 10, "num_total": 3, "num_completed": 2, f"num_{name}": 1}
    found = body(replace(NEW, status=status, **ended))

    assert found["request_counts"]["total"] == 10
    assert {key: number for key, number in found["counts"].items() if number} == {"completed": 2, name: 8}


def test_rows_that_ended_after_the_batch_was_read_do_not_count_twice() -> None:
    assert body(OVER, num_running=3)["counts"]["running"] == 0


def test_progress_is_judged_by_the_mean_rate_so_far() -> None:
    assert body(RUNNING, after_seconds=8)["progress"] == {
        "fraction": 0.4,
        "tokens_generated": 40,
        "tokens_per_second": 5.0,
        "eta_seconds": 12.0,
    }


def test_progress_of_a_finished_batch_stands_still() -> None:
    first, later = body(OVER, after_seconds=30)["progress"], body(OVER, after_seconds=3000)["progress"]

    assert (
        first
        == later
        == {
            "fraction": 1.0,
            "tokens_generated": 40,
            "tokens_per_second": 2.0,
            "eta_seconds": 0.0,
        }
    )


def test_progress_without_anything_to_judge_by_is_null() -> None:
    found = body(NEW, after_seconds=5)["progress"]

    assert (found["fraction"], found["tokens_per_second"], found["eta_seconds"]) == (None, None, None)


@pytest.mark.parametrize(
    ("batch", "around", "reason"),
    [
        (NEW, {"live_models": ["demo"]}, "validating: waiting for a worker"),
        (NEW, {"live_models": []}, "validating: no live worker"),
        (
            replace(NEW, intake_owner=ID, num_lines_read=3),
            {},
            "validating: a worker reads the input, 3 lines so far",
        ),
        (RUNNING, {"num_running": 1, "live_models": ["demo"]}, None),
        (RUNNING, {"live_models": []}, "in_progress: no live worker"),
        (replace(RUNNING, model="x"), {"live_models": ["demo"]}, "in_progress: no live worker serves model x"),
        (RUNNING, {"live_models": ["demo"], "first_model": "y"}, "in_progress: no live worker serves model y"),
        (replace(RUNNING, model="demo"), {"live_models": ["demo"]}, "in_progress: its rows wait for their turn"),
        (replace(RUNNING, status=BatchStatus.CANCELLING), {}, "cancelling: 4 rows still to stop"),
        (
            replace(NEW, status=BatchStatus.FAILED, errors=[{"code": "empty_file", "message": "the file is empty"}]),
            {},
            "failed: the file is empty",
        ),
        (
            replace(OVER, status=BatchStatus.EXPIRED, num_expired=1, num_failed=0),
            {},
            "expired: the completion window passed with 1 row not done",
        ),
        (OVER, {}, "completed: 1 row failed"),
        (replace(OVER, num_completed=10, num_failed=0), {}, None),
    ],
)
def test_batch_says_why_it_stands_where_it_stands(
    batch: BatchRecord, around: Mapping[str, Any], reason: str | None
) -> None:
    assert body(batch, **around)["status_reason"] == reason


def test_errors_of_validation_are_a_list_object() -> None:
    errors = [{"code": "invalid_json_line", "message": "line 3", "param": None, "line": 3}]

    found = body(replace(NEW, status=BatchStatus.FAILED, errors=errors, failed_at=AT))

    assert found["errors"] == {"object": "list", "data": errors}
    assert found["failed_at"] == SECONDS


def test_first_errors_tell_code_message_and_count() -> None:
    found = body(OVER, first_errors=[ErrorCount("empty_prompt", "prompt must not be empty", 1)])

    assert body(OVER)["first_errors"] is None  # in a list, which does not look
    assert found["first_errors"] == [{"code": "empty_prompt", "message": "prompt must not be empty", "count": 1}]


def test_result_is_its_files_line_with_its_place() -> None:
    done = result_line(job(batch_id=ID, line=4, custom_id="a"))
    failed = result_line(unfinished(Status.FAILED, batch_id=ID, line=5, custom_id="b", error=JobError("x", "y")))

    assert (done["seq"], done["custom_id"], done["response"]["status_code"]) == (4, "a", 200)
    assert (failed["seq"], failed["response"]["body"]["error"]["code"], failed["error"]) == (5, "x", None)


def test_results_stop_before_the_first_row_that_may_still_change() -> None:
    rows = [job(line=1), unfinished(Status.FAILED, line=2), unfinished(Status.QUEUED, line=3), job(line=4)]

    assert [row.line for row in until_unfinished(rows)] == [1, 2]
    assert until_unfinished(rows[2:]) == []
    assert len(until_unfinished(rows[:2])) == 2
