"""The rows of a batch: listed, read while it runs, and those that failed once more."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import orjson
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from models.batch_store import BatchStore
from models.ids import parse_batch_id, parse_file_id
from models.records import JobRecord
from tests.integration.api.batch_making import Intake, Json, request_line, stored_file
from tests.integration.api.fakes import Worker

NUM_LINES = 5
LINES = [request_line(number) for number in range(1, NUM_LINES + 1)]


@pytest.fixture
def intake(app: FastAPI, worker: Worker) -> Intake:
    return Intake(app, worker)


@pytest.fixture
def batch_id(client: TestClient, app: FastAPI) -> str:
    body = {"input_file_id": stored_file(app, LINES), "endpoint": "/v1/completions", "completion_window": "1d"}
    more = {"priority": 2, "metadata": {"team": "search"}}
    return str(client.post("/v1/batches", json=body | more).json()["id"])


@pytest.fixture
def rows(intake: Intake, batch_id: str) -> list[UUID]:
    return intake.read(batch_id)


def results(client: TestClient, batch_id: str, **query: Any) -> Json:  # noqa: ANN401 (any parameter)
    found: Json = client.get(f"/v1/batches/{batch_id}/results", params=query).json()
    return found


def custom_ids(page: Json) -> list[str]:
    return [entry["custom_id"] for entry in page["data"]]


def test_rows_are_listed_in_the_order_of_lines(
    client: TestClient, worker: Worker, batch_id: str, rows: list[UUID]
) -> None:
    worker.fail(worker.claim(rows[3]), "out_of_memory")
    worker.complete(worker.claim(rows[1]))
    path = f"/v1/batches/{batch_id}/requests"

    first = client.get(path, params={"limit": 3}).json()
    rest = client.get(path, params={"limit": 3, "after": first["last_id"]}).json()
    failed = client.get(path, params={"status": "failed"}).json()

    assert custom_ids(first) + custom_ids(rest) == [f"request-{number}" for number in range(1, 6)]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert first["data"][1]["result"]["choices"][0]["text"] == "done"
    assert first["data"][0]["id"] == f"batch_req_{rows[0].hex}"
    assert [(entry["custom_id"], entry["error"]["code"]) for entry in failed["data"]] == [
        ("request-4", "out_of_memory")
    ]


@pytest.mark.parametrize("after", ["nonsense", "batch_req_018f0000000070008000000000000001"])
def test_cursor_that_is_no_row_of_the_batch_is_refused(
    client: TestClient, batch_id: str, rows: list[UUID], after: str
) -> None:
    answer = client.get(f"/v1/batches/{batch_id}/requests", params={"after": after})

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_cursor")


def test_cursor_of_another_batch_is_refused(client: TestClient, app: FastAPI, intake: Intake, batch_id: str) -> None:
    rows = intake.read(batch_id)
    body = {"input_file_id": stored_file(app, LINES), "endpoint": "/v1/completions", "completion_window": "1d"}
    other = client.post("/v1/batches", json=body).json()["id"]

    answer = client.get(f"/v1/batches/{other}/requests", params={"after": f"batch_req_{rows[0].hex}"})

    assert answer.json()["error"]["code"] == "invalid_cursor"


def test_results_wait_behind_the_first_unfinished_row(
    client: TestClient, worker: Worker, batch_id: str, rows: list[UUID]
) -> None:
    """The third is done before the second: given now, a client that goes on after it would miss the second."""
    worker.complete(worker.claim(rows[0]))
    worker.complete(worker.claim(rows[2]))

    first = results(client, batch_id)
    nothing = results(client, batch_id, after_seq=first["last_seq"])
    worker.fail(worker.claim(rows[1]), "out_of_memory")
    rest = results(client, batch_id, after_seq=nothing["last_seq"])

    assert [(entry["seq"], entry["custom_id"]) for entry in first["data"]] == [(1, "request-1")]
    assert first["data"][0]["response"]["body"]["choices"][0]["text"] == "done"
    assert (nothing["data"], nothing["last_seq"], nothing["has_more"]) == ([], 1, True)
    assert [entry["seq"] for entry in rest["data"]] == [2, 3]
    assert rest["data"][0]["response"]["body"]["error"]["code"] == "out_of_memory"
    assert (rest["last_seq"], rest["has_more"], rest["status"]) == (3, True, "in_progress")


def follow(client: TestClient, batch_id: str, limit: int) -> Iterator[Json]:
    """Every result, as a client reads them while the batch runs."""
    page: Json = {"has_more": True, "last_seq": 0}
    while page["has_more"]:
        page = results(client, batch_id, after_seq=page["last_seq"], wait=30, limit=limit)
        yield from page["data"]


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_results_followed_to_the_end_come_once_each(
    client: TestClient, worker: Worker, intake: Intake, batch_id: str, limit: int
) -> None:
    """From before the input is read to after the last row, whatever order rows end in."""

    def work() -> None:
        for job_id in reversed(intake.read(batch_id)):
            worker.complete(worker.claim(job_id))

    timer = threading.Timer(0.2, work)
    timer.start()

    found = list(follow(client, batch_id, limit))

    assert [entry["custom_id"] for entry in found] == [line["custom_id"] for line in LINES]
    timer.join()


def test_results_of_a_batch_that_failed_are_over(client: TestClient, intake: Intake, batch_id: str) -> None:
    intake.refuse(batch_id, "empty_file", 1)

    page = results(client, batch_id, wait=30)

    assert (page["data"], page["has_more"], page["status"]) == ([], False, "failed")


def test_failed_lines_make_a_new_batch(
    client: TestClient, app: FastAPI, worker: Worker, batch_id: str, rows: list[UUID]
) -> None:
    for place, job_id in enumerate(rows):
        job = worker.claim(job_id)
        worker.fail(job, "out_of_memory") if place in (1, 4) else worker.complete(job)

    batch = client.post(f"/v1/batches/{batch_id}/retry_failed", json={"priority": 9}).json()

    with app.state.services.blobs.open(parse_file_id(batch["input_file_id"])) as file:
        assert [orjson.loads(line) for line in file] == [LINES[1], LINES[4]]
    assert batch["id"] != batch_id
    assert (batch["status"], batch["priority"], batch["completion_window"]) == ("validating", 9, "1d")
    assert batch["metadata"] == {"team": "search"}


def test_failed_lines_of_many_pages_are_all_repeated(
    client: TestClient, app: FastAPI, worker: Worker, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.batches.creation.PAGE", 2)
    lines = [request_line(number) for number in range(9)]
    body = {"input_file_id": stored_file(app, lines), "endpoint": "/v1/completions", "completion_window": "1d"}
    batch_id = client.post("/v1/batches", json=body).json()["id"]
    for job_id in intake.read(batch_id):
        worker.fail(worker.claim(job_id), "out_of_memory")

    batch = client.post(f"/v1/batches/{batch_id}/retry_failed").json()

    with app.state.services.blobs.open(parse_file_id(batch["input_file_id"])) as file:
        assert [orjson.loads(line) for line in file] == lines


def test_batch_that_is_deleted_while_its_failed_lines_are_copied_is_not_repeated_in_part(
    client: TestClient, worker: Worker, batch_id: str, rows: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.batches.creation.PAGE", 1)
    for job_id in rows:
        worker.fail(worker.claim(job_id), "out_of_memory")
    read = BatchStore.results

    def read_and_delete(store: BatchStore, batch: UUID, **given: Any) -> Sequence[JobRecord]:  # noqa: ANN401
        found = read(store, batch, **given)
        if found:
            store.delete(batch)
        return found

    monkeypatch.setattr(BatchStore, "results", read_and_delete)

    answer = client.post(f"/v1/batches/{batch_id}/retry_failed")

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert client.get("/v1/batches").json()["data"] == []


def test_same_key_repeats_the_failed_lines_once(
    client: TestClient, worker: Worker, batch_id: str, rows: list[UUID]
) -> None:
    for job_id in rows:
        worker.fail(worker.claim(job_id), "out_of_memory")

    tries = [client.post(f"/v1/batches/{batch_id}/retry_failed", headers={"idempotency-key": "k"}) for _ in range(2)]

    assert tries[0].json()["id"] == tries[1].json()["id"]
    assert tries[1].headers["idempotent-replayed"] == "true"


def test_batch_without_failed_rows_or_input_cannot_be_repeated(
    client: TestClient, app: FastAPI, worker: Worker, batch_id: str, rows: list[UUID]
) -> None:
    path = f"/v1/batches/{batch_id}/retry_failed"
    live = client.post(path)
    worker.fail(worker.claim(rows[0]), "out_of_memory")
    for job_id in rows[1:]:
        worker.complete(worker.claim(job_id))
    services = app.state.services
    batch = services.batches.get(parse_batch_id(batch_id))
    services.files.delete(batch.input_file_id, "default")
    services.blobs.delete(batch.input_file_id)
    gone = client.post(path)
    client.post("/v1/batches", json={})

    assert (live.status_code, live.json()["error"]["code"]) == (409, "batch_not_final")
    assert (gone.status_code, gone.json()["error"]["code"]) == (409, "input_file_gone")
    assert gone.headers["x-should-retry"] == "false"
    assert len(client.get("/v1/batches").json()["data"]) == 1


def test_batch_that_completed_has_nothing_to_repeat(
    client: TestClient, worker: Worker, batch_id: str, rows: list[UUID]
) -> None:
    for job_id in rows:
        worker.complete(worker.claim(job_id))

    answer = client.post(f"/v1/batches/{batch_id}/retry_failed")

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "no_failed_requests")
