"""Batches as the official client creates, reads, lists and cancels them, over a real connection."""

import io
from collections.abc import Iterator

import httpx
import openai
import orjson
import pytest
from fastapi import FastAPI

from tests.integration.api.batch_making import Intake, request_line
from tests.integration.api.fakes import Worker

LINES = [request_line(number) for number in range(3)]


@pytest.fixture
def sdk(server: httpx.Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="sk-any") as client:
        yield client


@pytest.fixture
def file_id(sdk: openai.OpenAI) -> str:
    content = b"".join(orjson.dumps(line) + b"\n" for line in LINES)
    return sdk.files.create(file=("in.jsonl", io.BytesIO(content)), purpose="batch").id


@pytest.fixture
def batch_id(sdk: openai.OpenAI, file_id: str) -> str:
    return sdk.batches.create(input_file_id=file_id, endpoint="/v1/completions", completion_window="24h").id


def test_batch_is_created_read_and_its_files_downloaded(
    sdk: openai.OpenAI, app: FastAPI, worker: Worker, batch_id: str
) -> None:
    first, second, third = Intake(app, worker).read(batch_id)
    for job_id in (first, third):
        worker.complete(worker.claim(job_id))
    worker.fail(worker.claim(second), "out_of_memory")

    batch = sdk.batches.retrieve(batch_id)

    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 1)
    assert batch.output_file_id is not None
    assert batch.error_file_id is not None
    lines = [orjson.loads(line) for line in sdk.files.content(batch.output_file_id).iter_lines()]
    errors = [orjson.loads(line) for line in sdk.files.content(batch.error_file_id).iter_lines()]
    assert [line["custom_id"] for line in lines] == ["request-0", "request-2"]
    assert [line["custom_id"] for line in errors] == ["request-1"]
    assert batch.usage is not None
    assert batch.usage.total_tokens == 10


def test_partial_output_is_read_while_the_batch_runs(
    sdk: openai.OpenAI, app: FastAPI, worker: Worker, batch_id: str
) -> None:
    first, *_ = Intake(app, worker).read(batch_id)
    worker.complete(worker.claim(first))

    batch = sdk.batches.retrieve(batch_id)
    partial = str((batch.model_extra or {})["partial_output_file_id"])

    assert batch.output_file_id is None
    assert orjson.loads(sdk.files.content(partial).text)["custom_id"] == "request-0"


def test_list_pages_to_its_end(sdk: openai.OpenAI, file_id: str) -> None:
    created = [
        sdk.batches.create(input_file_id=file_id, endpoint="/v1/completions", completion_window="24h").id
        for _ in range(5)
    ]

    assert [batch.id for batch in sdk.batches.list(limit=2)] == created[::-1]


def test_cancelled_batch_is_cancelled_and_final_one_refused_without_retries(
    sdk: openai.OpenAI, server: httpx.Client, app: FastAPI, worker: Worker, batch_id: str, file_id: str
) -> None:
    assert sdk.batches.cancel(batch_id).status == "cancelled"
    bad = sdk.batches.create(input_file_id=file_id, endpoint="/v1/completions", completion_window="24h").id
    Intake(app, worker).refuse(bad, "empty_file", 1)

    failed = sdk.batches.retrieve(bad)
    assert failed.errors is not None
    assert failed.errors.data is not None
    assert failed.errors.data[0].code == "empty_file"
    with pytest.raises(openai.ConflictError) as refused:
        sdk.batches.cancel(bad)
    assert refused.value.code == "batch_not_cancellable"
    assert refused.value.response.request.headers["x-stainless-retry-count"] == "0"


def test_extensions_go_as_extra_body(sdk: openai.OpenAI) -> None:
    batch = sdk.batches.create(
        input_file_id=openai.omit,  # type: ignore[arg-type]
        endpoint="/v1/completions",
        completion_window="90m",  # type: ignore[arg-type]
        metadata={"team": "search"},
        extra_body={"requests": LINES, "priority": 9},
    )

    assert batch.model_extra is not None
    assert (batch.model_extra["priority"], batch.completion_window) == (9, "90m")
    assert batch.input_file_id is not None
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.batches.create(input_file_id="x", endpoint="/v1/completions", completion_window="1y")  # type: ignore[arg-type]
    assert (refused.value.code, refused.value.param) == ("invalid_completion_window", "completion_window")
