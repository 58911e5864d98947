"""Rows to job objects, without a database."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from api.rendering.bodies import endpoint_body
from api.rendering.jobs import job_body, job_entry
from models.records import JobError
from models.status import Status
from tests.unit.api.test_rendering import AT, BATCH, COMPLETION, ID, SECONDS, job, unfinished

OWNER = UUID("018f0000-0000-7000-8000-00000000000c")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": Status.QUEUED, "attempt": 0}, None),
        ({"status": Status.QUEUED}, "given_back"),
        ({"status": Status.QUEUED, "suspicion": 1}, "worker_crashed"),
        ({"status": Status.IN_PROGRESS}, None),
        ({"status": Status.IN_PROGRESS, "cancel_requested": True}, "cancel_requested"),
        ({"status": Status.FAILED, "error": JobError("empty_prompt", "no")}, "empty_prompt"),
    ],
)
def test_job_says_why_it_stands_where_it_stands(changes: dict[str, Any], reason: str | None) -> None:
    assert job_body(unfinished(**changes))["status_reason"] == reason


def test_job_of_a_batch_is_named_as_its_line_is() -> None:
    body = job_body(job(batch_id=BATCH, custom_id="a"))

    assert (body["id"], body["batch_id"], body["custom_id"]) == (f"batch_req_{ID.hex}", f"batch_{BATCH.hex}", "a")


def test_finished_job_carries_the_answer_of_its_endpoint() -> None:
    body = job_body(job())

    assert body["result"] == endpoint_body(job())
    assert (body["error"], body["finished_at"]) == (None, SECONDS)


def test_request_and_result_are_told_where_they_are_wanted() -> None:
    record = job({"prompt": "p"})

    assert "request" not in job_body(record)
    assert "result" not in job_body(record, include=())
    assert job_body(record, include=("request",))["request"] == {"prompt": "p"}


def test_times_are_in_milliseconds() -> None:
    spent = {"timings": {"prefill_ms": 1.5, "decode_ms": 20.0, "ttft_ms": 2.5}}
    record = job(started_at=AT + timedelta(seconds=2.5), completions=(replace(COMPLETION, details=spent),))

    assert job_body(record)["timings"] == {"queue_ms": 2500.0, "prefill_ms": 1.5, "decode_ms": 20.0, "ttft_ms": 2.5}


def test_times_that_nobody_measured_are_null() -> None:
    queued = job_body(unfinished(Status.QUEUED, started_at=None))

    assert queued["timings"] == dict.fromkeys(("queue_ms", "prefill_ms", "decode_ms", "ttft_ms"))


def test_running_job_names_its_worker() -> None:
    assert job_entry(unfinished(Status.IN_PROGRESS, owner=OWNER))["worker_id"] == OWNER.hex
    assert job_entry(job())["worker_id"] is None


def test_retry_names_what_it_repeats() -> None:
    assert job_body(job({"metadata": {"retry_of": "cmpl-1", "k": "v"}}))["retry_of"] == "cmpl-1"
    assert job_body(job({}))["retry_of"] is None


def test_metadata_of_a_refused_line_may_be_anything() -> None:
    assert job_body(job({"metadata": 7}))["metadata"] == {}
