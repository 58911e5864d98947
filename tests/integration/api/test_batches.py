"""Batches over HTTP: created, listed, waited for, cancelled, deleted; each life they can have."""

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.services import Services
from models.batch_store import BatchStore
from models.database import Database
from models.errors import DatabaseUnavailable
from models.file_store import FileStore
from models.ids import parse_file_id
from models.records import FileRecord, NewBatch, NewFile
from models.settings import Settings
from tests.integration.api.batch_making import Intake, Json, request_line, stored_file
from tests.integration.api.fakes import Worker

LINES = [request_line(number) for number in range(3)]
UNKNOWN = "batch_018f0000000070008000000000000001"


@pytest.fixture
def intake(app: FastAPI, worker: Worker) -> Intake:
    return Intake(app, worker)


@pytest.fixture
def body(app: FastAPI) -> Json:
    """What OpenAI's client sends."""
    return {"input_file_id": stored_file(app, LINES), "endpoint": "/v1/completions", "completion_window": "24h"}


@pytest.fixture
def batch_id(client: TestClient, body: Json) -> str:
    return str(client.post("/v1/batches", json=body).json()["id"])


def code_of(answer: Any) -> tuple[int, str, str | None]:  # noqa: ANN401 (the test client's answer)
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def get(client: TestClient, batch_id: str) -> Json:
    """The batch object now."""
    found: Json = client.get(f"/v1/batches/{batch_id}").json()
    return found


def test_new_batch_is_validating_and_has_nothing_yet(client: TestClient, body: Json) -> None:
    more = {"metadata": {"team": "search"}, "priority": 7, "completion_window": "90m", "max_attempts": 2}
    answer = client.post("/v1/batches", json=body | more)
    batch = answer.json()

    assert (answer.status_code, batch["object"], batch["status"]) == (200, "batch", "validating")
    assert batch["input_file_id"] == body["input_file_id"]
    assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert (batch["metadata"], batch["priority"], batch["max_attempts"]) == ({"team": "search"}, 7, 2)
    assert (batch["completion_window"], batch["expires_at"] - batch["created_at"]) == ("90m", 5400)
    assert (batch["output_file_id"], batch["error_file_id"], batch["errors"]) == (None, None, None)
    assert batch["status_reason"] == "validating: no live worker"
    assert get(client, batch["id"]) == batch


def test_batch_completes_with_its_counts_and_files(
    client: TestClient, worker: Worker, intake: Intake, batch_id: str
) -> None:
    first, second, third = intake.read(batch_id)
    worker.complete(worker.claim(first))
    worker.fail(worker.claim(second), "context_length_exceeded")
    claimed = worker.claim(third)
    running = get(client, batch_id)
    worker.complete(claimed)
    done = get(client, batch_id)

    assert (running["status"], running["output_file_id"]) == ("in_progress", None)
    assert running["counts"] == {
        "queued": 0,
        "running": 1,
        "completed": 1,
        "failed": 1,
        "cancelled": 0,
        "expired": 0,
    }
    assert running["partial_output_file_id"].startswith("file-")
    assert running["first_errors"][0]["code"] == "context_length_exceeded"
    assert done["status"] == "completed"
    assert done["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert done["usage"]["total_tokens"] == 10
    assert done["output_file_id"] == running["partial_output_file_id"]
    assert done["error_file_id"] is not None
    assert done["completed_at"] >= done["finalizing_at"] >= done["in_progress_at"] >= done["created_at"]
    assert (done["progress"]["fraction"], done["status_reason"]) == (1.0, "completed: 1 row failed")


def test_batch_says_that_nobody_serves_its_model(
    client: TestClient, database: Database, worker: Worker, intake: Intake, batch_id: str
) -> None:
    intake.read(batch_id)
    waiting = get(client, batch_id)["status_reason"]
    worker.claims.deregister(worker.id)
    alone = get(client, batch_id)["status_reason"]
    other = Worker.registered(database, model="other")
    without = get(client, batch_id)["status_reason"]
    other.stop()

    assert waiting == "in_progress: its rows wait for their turn"
    assert alone == "in_progress: no live worker"
    assert without == "in_progress: no live worker serves model demo"


def test_batch_whose_rows_all_failed_has_no_output(
    client: TestClient, worker: Worker, intake: Intake, batch_id: str
) -> None:
    for job_id in intake.read(batch_id):
        worker.fail(worker.claim(job_id), "out_of_memory")

    done = get(client, batch_id)

    assert (done["status"], done["output_file_id"]) == ("completed", None)
    assert done["error_file_id"] is not None
    assert done["first_errors"] == [{"code": "out_of_memory", "message": "it was out_of_memory", "count": 3}]


def test_batch_with_a_bad_input_fails_with_its_lines(client: TestClient, intake: Intake, batch_id: str) -> None:
    intake.refuse(batch_id, "duplicate_custom_id", 2)

    failed = get(client, batch_id)

    assert failed["status"] == "failed"
    assert failed["failed_at"] is not None
    assert failed["errors"]["data"][0] == {
        "code": "duplicate_custom_id",
        "message": "line 2 is bad",
        "param": None,
        "line": 2,
    }
    assert (failed["output_file_id"], failed["error_file_id"]) == (None, None)
    assert failed["status_reason"] == "failed: line 2 is bad"


def test_expired_batch_keeps_what_was_done(client: TestClient, worker: Worker, intake: Intake, body: Json) -> None:
    batch_id = client.post("/v1/batches", json=body | {"completion_window": "1s"}).json()["id"]
    first, *_ = intake.read(batch_id)
    worker.complete(worker.claim(first))
    time.sleep(1.1)
    worker.claims.expire_queued(10)

    expired = get(client, batch_id)

    assert expired["status"] == "expired"
    assert expired["request_counts"] == {"total": 3, "completed": 1, "failed": 0}
    assert expired["counts"]["expired"] == 2
    assert None not in (expired["expired_at"], expired["output_file_id"], expired["error_file_id"])


def test_cancelled_batch_stops_running_rows_and_keeps_results(
    client: TestClient, worker: Worker, intake: Intake, batch_id: str
) -> None:
    first, second, _ = intake.read(batch_id)
    worker.complete(worker.claim(first))
    claimed = worker.claim(second)

    answer = client.post(f"/v1/batches/{batch_id}/cancel")
    again = client.post(f"/v1/batches/{batch_id}/cancel")
    worker.cancel(claimed)
    done = get(client, batch_id)

    assert (answer.status_code, answer.json()["status"], again.status_code) == (200, "cancelling", 200)
    assert answer.json()["status_reason"] == "cancelling: 1 row still to stop"
    assert answer.json()["cancelling_at"] is not None
    assert done["status"] == "cancelled"
    assert done["counts"]["cancelled"] == 2
    assert done["output_file_id"] is not None
    assert client.post(f"/v1/batches/{batch_id}/cancel").json() == done


def test_batch_cancelled_before_it_was_read_is_over_at_once(client: TestClient, batch_id: str) -> None:
    assert client.post(f"/v1/batches/{batch_id}/cancel").json()["status"] == "cancelled"


def test_rows_of_a_large_batch_are_cancelled_after_the_answer(
    client: TestClient, intake: Intake, batch_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routes.batches.MAX_INLINE_CANCEL", 2)
    intake.read(batch_id)

    answer = client.post(f"/v1/batches/{batch_id}/cancel")

    assert answer.json()["status"] == "cancelling"
    assert get(client, batch_id)["status"] == "cancelled"


def test_finished_batch_cannot_be_cancelled(client: TestClient, intake: Intake, batch_id: str) -> None:
    intake.refuse(batch_id, "empty_file", 1)

    answer = client.post(f"/v1/batches/{batch_id}/cancel")

    assert code_of(answer) == (409, "batch_not_cancellable", None)
    assert answer.headers["x-should-retry"] == "false"
    assert get(client, batch_id)["status"] == "failed"


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"endpoint": "/v1/embeddings"}, (400, "invalid_endpoint", "endpoint")),
        ({"completion_window": "1y"}, (400, "invalid_completion_window", "completion_window")),
        ({"completion_window": 24}, (400, "invalid_completion_window", "completion_window")),
        ({"input_file_id": "file-018f0000000070008000000000000001"}, (404, "not_found", None)),
        ({"input_file_id": "../../etc/passwd"}, (404, "not_found", None)),
        ({"metadata": {"k" * 65: "v"}}, (400, "invalid_metadata", "metadata")),
        ({"priority": 999}, (400, "invalid_value", "priority")),
        ({"webhook": {"url": "https://example.com"}}, (400, "unsupported_parameter", "webhook")),
        ({"surprise": 1}, (400, "unknown_parameter", "surprise")),
        ({"idempotency_key": ""}, (400, "invalid_idempotency_key", "Idempotency-Key")),
        ({"idempotency_key": "é"}, (400, "invalid_idempotency_key", "Idempotency-Key")),
    ],
)
def test_bad_body_is_refused(
    client: TestClient, body: Json, changes: Json, refusal: tuple[int, str, str | None]
) -> None:
    assert code_of(client.post("/v1/batches", json=body | changes)) == refusal


def test_file_of_another_purpose_or_tenant_is_no_input(client: TestClient, app: FastAPI, body: Json) -> None:
    other = stored_file(app, LINES, purpose="user_data")
    foreign = stored_file(app, LINES, tenant="somebody")

    assert code_of(client.post("/v1/batches", json=body | {"input_file_id": other})) == (
        400,
        "invalid_file",
        "input_file_id",
    )
    assert code_of(client.post("/v1/batches", json=body | {"input_file_id": foreign})) == (404, "not_found", None)


def test_inline_requests_become_an_input_file(
    client: TestClient, app: FastAPI, worker: Worker, intake: Intake, body: Json
) -> None:
    inline = {name: value for name, value in body.items() if name != "input_file_id"} | {"requests": LINES}
    batch = client.post("/v1/batches", json=inline).json()

    ids = intake.read(batch["id"])

    file = app.state.services.files.get(parse_file_id(batch["input_file_id"]), "default")
    assert (file.purpose, len(ids)) == ("batch", 3)
    worker.complete(worker.claim(ids[1]))
    assert get(client, batch["id"])["request_counts"]["completed"] == 1


def test_same_key_creates_one_batch(client: TestClient, body: Json) -> None:
    headers = {"idempotency-key": "night-1"}
    first = client.post("/v1/batches", json=body, headers=headers)
    again = client.post("/v1/batches", json=body, headers=headers)
    mirrored = client.post("/v1/batches", json=body | {"idempotency_key": "night-1"})
    other = client.post("/v1/batches", json=body | {"priority": 1}, headers=headers)
    both = client.post("/v1/batches", json=body | {"idempotency_key": "night-2"}, headers=headers)

    assert "idempotent-replayed" not in first.headers
    assert [again.headers["idempotent-replayed"], mirrored.headers["idempotent-replayed"]] == ["true", "true"]
    assert first.json()["id"] == again.json()["id"] == mirrored.json()["id"]
    assert code_of(other) == (422, "idempotency_key_reused", None)
    assert code_of(both) == (400, "invalid_idempotency_key", "idempotency_key")
    assert len(client.get("/v1/batches").json()["data"]) == 1


def test_replayed_inline_requests_leave_no_second_file(client: TestClient, app: FastAPI, body: Json) -> None:
    inline = {name: value for name, value in body.items() if name != "input_file_id"} | {"requests": LINES}
    for _ in range(2):
        client.post("/v1/batches", json=inline, headers={"idempotency-key": "k"})

    files = app.state.services.files.list("default", limit=10)
    assert len([file for file in files if file.filename.startswith("requests-of")]) == 1


def test_inline_requests_that_make_no_batch_leave_no_file(client: TestClient, app: FastAPI, body: Json) -> None:
    inline = {name: value for name, value in body.items() if name != "input_file_id"} | {"requests": LINES}
    client.post("/v1/batches", json=inline, headers={"idempotency-key": "k"})
    refused = client.post("/v1/batches", json=inline | {"priority": 9}, headers={"idempotency-key": "k"})

    assert refused.status_code == 422
    files = app.state.services.files.list("default", limit=10)
    assert len([file for file in files if file.filename.startswith("requests-of")]) == 1


class IsAway(FileStore):
    """The database is away when a file's row is to be stored."""

    def create(self, new: NewFile) -> FileRecord:
        raise DatabaseUnavailable


def test_inline_requests_whose_file_cannot_be_noted_leave_no_bytes(
    client: TestClient, app: FastAPI, settings: Settings, body: Json
) -> None:
    """Nobody would ever find them."""
    services: Services = app.state.services
    there = {path for path in Path(settings.blobs).rglob("*") if path.is_file()}
    app.state.services = replace(services, files=IsAway(services.database))
    inline = {name: value for name, value in body.items() if name != "input_file_id"} | {"requests": LINES}

    assert client.post("/v1/batches", json=inline).status_code == 503
    assert {path for path in Path(settings.blobs).rglob("*") if path.is_file()} == there != set()


class LosesTheWord(BatchStore):
    """The connection breaks once a batch is committed."""

    def create(self, batch: NewBatch) -> None:
        super().create(batch)
        raise DatabaseUnavailable


def test_batch_whose_commit_was_not_heard_of_keeps_its_input(client: TestClient, app: FastAPI, body: Json) -> None:
    services: Services = app.state.services
    inline = {name: value for name, value in body.items() if name != "input_file_id"} | {"requests": LINES}
    app.state.services = replace(services, batches=LosesTheWord(services.database))

    answer = client.post("/v1/batches", json=inline)

    [batch] = client.get("/v1/batches").json()["data"]
    assert (answer.status_code, answer.headers["x-should-retry"]) == (503, "true")
    assert services.files.get(parse_file_id(batch["input_file_id"]), "default") is not None
    with services.blobs.open(parse_file_id(batch["input_file_id"])) as file:
        assert len(file.readlines()) == 3


def test_clients_own_retry_finds_the_batch_of_its_first_try(client: TestClient, body: Json) -> None:
    """The official client sends no key; it says how often it tried."""
    first = client.post("/v1/batches", json=body, headers={"x-stainless-retry-count": "0"})
    retry = client.post("/v1/batches", json=body, headers={"x-stainless-retry-count": "1"})
    meant = client.post("/v1/batches", json=body, headers={"x-stainless-retry-count": "0"})

    assert retry.json()["id"] == first.json()["id"]
    assert meant.json()["id"] != first.json()["id"]


def test_wait_ends_with_the_batch(client: TestClient, worker: Worker, intake: Intake, batch_id: str) -> None:
    ids = intake.read(batch_id)

    def work() -> None:
        for job_id in ids:
            worker.complete(worker.claim(job_id))

    timer = threading.Timer(0.2, work)
    timer.start()

    batch = client.get(f"/v1/batches/{batch_id}", params={"wait": 30}).json()

    assert batch["status"] == "completed"
    timer.join()


def test_wait_for_a_change_ends_with_the_next_row(
    client: TestClient, worker: Worker, intake: Intake, batch_id: str
) -> None:
    first, *_ = intake.read(batch_id)
    timer = threading.Timer(0.2, lambda: worker.complete(worker.claim(first)))
    timer.start()

    batch = client.get(f"/v1/batches/{batch_id}?until=change", headers={"prefer": "respond-async, wait=30"}).json()

    assert (batch["status"], batch["request_counts"]["completed"]) == ("in_progress", 1)
    timer.join()


def test_wait_gives_up_in_time(client: TestClient, batch_id: str) -> None:
    started = time.monotonic()

    batch = client.get(f"/v1/batches/{batch_id}", params={"wait": 0.2}).json()

    assert batch["status"] == "validating"
    assert time.monotonic() - started >= 0.2


def test_lists_are_newest_first_and_filtered(client: TestClient, body: Json, intake: Intake) -> None:
    ids = [client.post("/v1/batches", json=body | {"metadata": {"n": str(n)}}).json()["id"] for n in range(5)]
    intake.refuse(ids[0], "empty_file", 1)

    first = client.get("/v1/batches", params={"limit": 2}).json()
    second = client.get("/v1/batches", params={"limit": 3, "after": first["last_id"]}).json()

    assert [entry["id"] for entry in first["data"] + second["data"]] == ids[::-1]
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert [entry["id"] for entry in client.get("/v1/batches?status=failed").json()["data"]] == ids[:1]
    assert [entry["id"] for entry in client.get("/v1/batches?metadata[n]=3").json()["data"]] == [ids[3]]
    assert client.get("/v1/batches", params={"metadata[n]": "3' OR '1'='1"}).json()["data"] == []


@pytest.mark.parametrize(
    ("query", "code"),
    [("limit=0", "invalid_limit"), ("limit=101", "invalid_limit"), ("limit=x", "invalid_limit")]
    + [(f"after={after}", "invalid_cursor") for after in (UNKNOWN, "1%20OR%201", "")]
    + [("status=done", "invalid_value")],
)
def test_bad_page_is_refused(client: TestClient, query: str, code: str) -> None:
    answer = client.get(f"/v1/batches?{query}")

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


def test_final_batch_is_deleted_with_its_files(
    client: TestClient, app: FastAPI, worker: Worker, intake: Intake, batch_id: str
) -> None:
    live = client.delete(f"/v1/batches/{batch_id}")
    for job_id in intake.read(batch_id):
        worker.complete(worker.claim(job_id))
    output = get(client, batch_id)["output_file_id"]

    gone = client.delete(f"/v1/batches/{batch_id}", params={"files": "true"})

    assert code_of(live) == (409, "batch_not_final", None)
    assert gone.json() == {"id": batch_id, "object": "batch", "deleted": True}
    assert client.get(f"/v1/batches/{batch_id}").status_code == 404
    assert app.state.services.files.get(parse_file_id(output), "default") is None
    assert app.state.services.files.list("default", limit=10) == []


def test_key_of_a_deleted_batch_makes_a_new_one(client: TestClient, body: Json) -> None:
    """As that of a deleted job does."""
    key = {"idempotency-key": "k"}
    first = client.post("/v1/batches", json=body, headers=key).json()["id"]
    client.post(f"/v1/batches/{first}/cancel")
    client.delete(f"/v1/batches/{first}")

    again = client.post("/v1/batches", json=body, headers=key)

    assert (again.status_code, again.json()["status"]) == (200, "validating")
    assert again.json()["id"] != first
    assert "idempotent-replayed" not in again.headers


def test_input_that_feeds_another_batch_outlives_a_deleted_one(
    client: TestClient, app: FastAPI, body: Json, batch_id: str
) -> None:
    client.post("/v1/batches", json=body)
    client.post(f"/v1/batches/{batch_id}/cancel")

    assert client.delete(f"/v1/batches/{batch_id}?files=true").status_code == 200
    assert app.state.services.files.get(parse_file_id(body["input_file_id"]), "default") is not None


@pytest.mark.parametrize("method_and_path", ["GET ", "POST /cancel", "DELETE ", "POST /retry_failed", "GET /results"])
@pytest.mark.parametrize("id", [UNKNOWN, "nonsense", "batch_' OR 1=1"])
def test_unknown_batch_is_not_found(client: TestClient, method_and_path: str, id: str) -> None:
    method, path = method_and_path.split(" ")

    assert code_of(client.request(method, f"/v1/batches/{id}{path}")) == (404, "not_found", None)
