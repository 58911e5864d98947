"""Submitting: committed before the answer, waited for within limits, and never twice."""

import time
from collections.abc import Mapping
from typing import Any, Protocol

import httpx
import pytest
from fastapi.testclient import TestClient

from models.database import Database
from models.ids import parse_job_id
from models.settings import load_settings
from models.status import Status
from models.store import Store
from tests.integration.api.conftest import NO_REDIS
from tests.integration.api.fakes import Worker, wait_for_job
from tests.integration.api.hanging_up import hang_up_midway, hang_up_when_stored, only_job
from tests.waiting import wait_until

BODY: dict[str, Any] = {"model": "demo", "prompt": "hello"}
BACKGROUND = BODY | {"background": True}
CHAT: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}


class Answer(Protocol):
    """What the test client and a real client answer with: two libraries, one shape."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    def json(self) -> Any: ...  # noqa: ANN401 (any JSON)


def error_of(answer: Answer) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"]
    return answer.status_code, error["code"], error["param"]


def test_background_completion_is_committed_before_the_answer(client: TestClient, database: Database) -> None:
    answer = client.post("/v1/completions", json=BACKGROUND)

    body = answer.json()
    job = Store(database).job(parse_job_id(body["id"]))
    assert answer.status_code == 200
    assert (body["object"], body["status"], body["choices"], body["usage"]) == ("text_completion", "queued", [], None)
    assert body["id"].startswith("cmpl-")
    assert job is not None
    assert (job.status, job.priority, job.body["prompt"]) == (Status.QUEUED, 4, "hello")


def test_completion_waits_for_its_result(client: TestClient, worker: Worker) -> None:
    worker.finish_all()

    body = client.post("/v1/completions", json=BODY | {"seed": 7}).json()

    assert body["choices"] == [{"index": 0, "text": "done", "logprobs": None, "finish_reason": "stop"}]
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert (body["status"], body["seed"], body["system_fingerprint"]) == ("completed", 7, "fp")
    job = worker.store.job(parse_job_id(body["id"]))
    assert job is not None
    assert job.priority == 6


def test_chat_completion_waits_for_its_result(client: TestClient, worker: Worker) -> None:
    worker.finish_all()

    body = client.post("/v1/chat/completions", json=CHAT).json()

    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == "done"


@pytest.mark.parametrize("settings", [load_settings(redis_url=NO_REDIS, sync_timeout_seconds=0.1)])
def test_completion_past_the_limit_goes_on_as_a_job(client: TestClient, database: Database) -> None:
    """The official client retries a plain 408, which would queue the work a second time."""
    answer = client.post("/v1/completions", json=BODY)

    assert error_of(answer) == (408, "sync_timeout", None)
    assert answer.headers["x-should-retry"] == "false"
    job_id = answer.json()["error"]["message"].rsplit("/", 1)[1]
    job = Store(database).job(parse_job_id(job_id))
    assert job is not None
    assert job.status is Status.QUEUED


def test_completion_answers_before_the_client_hangs_up(client: TestClient) -> None:
    started = time.monotonic()

    answer = client.post("/v1/completions", json=BODY, headers={"x-stainless-read-timeout": "5.2"})

    assert answer.status_code == 408
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("code", "status", "retry"),
    [("context_length_exceeded", 400, None), ("worker_crashed", 500, "false"), ("internal_row_error", 500, "false")],
)
def test_failed_job_answers_whose_fault_it_was(
    client: TestClient, worker: Worker, code: str, status: int, retry: str | None
) -> None:
    worker.finish_all(code)

    answer = client.post("/v1/completions", json=BODY)

    assert error_of(answer)[:2] == (status, code)
    assert answer.json()["error"]["message"] == f"it was {code}"
    assert answer.headers.get("x-should-retry") == retry


def test_client_that_hangs_up_cancels_its_job(server: httpx.Client, database: Database) -> None:
    job_id = hang_up_when_stored(server, database, "/v1/completions", BODY)

    wait_for_job(Store(database), job_id, Status.CANCELLED)


def test_client_that_hangs_up_in_its_request_is_no_error(
    server: httpx.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()

    for _ in range(3):
        hang_up_midway(server, "/v1/completions")
    wait_until(lambda: 'status="499"' in server.get("/metrics").text)

    assert caplog.records == []
    assert only_job(database) is None


def test_client_that_hangs_up_can_come_back_with_its_key(
    server: httpx.Client, database: Database, worker: Worker
) -> None:
    headers = {"idempotency-key": "k1"}
    hang_up_when_stored(server, database, "/v1/completions", BODY, headers)
    worker.finish_all()

    again = server.post("/v1/completions", json=BODY, headers=headers)

    assert (again.status_code, again.json()["status"]) == (200, "completed")
    assert again.headers["idempotent-replayed"] == "true"


def test_idempotent_request_is_stored_once(client: TestClient, database: Database) -> None:
    headers = {"idempotency-key": "k1"}

    first = client.post("/v1/completions", json=BACKGROUND, headers=headers)
    again = client.post("/v1/completions", json=dict(reversed(BACKGROUND.items())), headers=headers)

    assert first.json()["id"] == again.json()["id"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert Store(database).queue_depth() == {"demo": 1}


def test_idempotency_key_with_another_request_is_refused(client: TestClient) -> None:
    headers = {"idempotency-key": "k1"}
    client.post("/v1/completions", json=BACKGROUND, headers=headers)

    other = client.post("/v1/completions", json=BACKGROUND | {"prompt": "other"}, headers=headers)

    assert error_of(other)[:2] == (422, "idempotency_key_reused")


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9", "a\tb"])
def test_bad_idempotency_key_is_refused(client: TestClient, key: str) -> None:
    answer = client.post("/v1/completions", json=BACKGROUND, headers=[(b"idempotency-key", key.encode())])

    assert error_of(answer)[:2] == (400, "invalid_idempotency_key")


@pytest.mark.parametrize("model", ["other", "../../x", "http://host/x", "hub/user"])
def test_unknown_model_is_not_found(client: TestClient, model: str) -> None:
    answer = client.post("/v1/completions", json=BACKGROUND | {"model": model})

    assert error_of(answer) == (404, "model_not_found", "model")
    assert model not in answer.text


def test_model_that_a_worker_announces_is_known(client: TestClient, database: Database) -> None:
    Worker.registered(database, model="other")

    assert client.post("/v1/completions", json=BACKGROUND | {"model": "other"}).status_code == 200


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"model": None}, "missing_required_parameter", "model"),
        ({"prompt": None}, "missing_required_parameter", "prompt"),
        ({"temprature": 1}, "unknown_parameter", "temprature"),
        ({"max_tokens": "8"}, "invalid_value", "max_tokens"),
        ({"tools": [{}]}, "unsupported_parameter", "tools"),
        ({"n": 10**9}, "invalid_value", "n"),
        ({"n": 3, "best_of": 2}, "invalid_value", "best_of"),
        ({"logit_bias": {"x": 1}}, "invalid_logit_bias", "logit_bias"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"prompt": ""}, "empty_prompt", "prompt"),
        ({"prompt": [1, -1]}, "invalid_token_id", "prompt[1]"),
    ],
)
def test_bad_parameter_is_named(client: TestClient, change: dict[str, Any], code: str, param: str) -> None:
    answer = client.post("/v1/completions", json=BACKGROUND | change)

    assert error_of(answer) == (400, code, param)


def test_priority_ttl_and_metadata_reach_the_job(client: TestClient) -> None:
    extra = {"priority": 9, "ttl": 60, "metadata": {"team": "a"}}

    posted = client.post("/v1/completions", json=BACKGROUND | extra).json()

    job = client.get(f"/v1/jobs/{posted['id']}").json()
    assert (job["priority"], job["metadata"]) == (9, {"team": "a"})
    assert 55 <= job["expires_at"] - job["created_at"] <= 61


def test_logprobs_and_token_ids_come_as_asked(client: TestClient, worker: Worker) -> None:
    wanted = {"logprobs": 1, "return_token_ids": True}
    posted = client.post("/v1/completions", json=BACKGROUND | wanted).json()
    top = [["do", 5, -0.5], ["di", 9, -1.0]]
    details = {
        "tokens": [
            {"token": "do", "logprob": -0.5, "offset": 0, "top": top[:1]},
            {"token": "ne", "logprob": -1.5, "offset": 2, "top": [["x", 1, -0.1]]},
        ]
    }
    worker.complete(worker.claim(parse_job_id(posted["id"])), details=details)

    [choice] = client.get(f"/v1/jobs/{posted['id']}").json()["result"]["choices"]

    assert (choice["token_ids"], choice["prompt_token_ids"]) == ([5, 6], [1, 2, 3])
    assert choice["logprobs"] == {
        "tokens": ["do", "ne"],
        "token_logprobs": [-0.5, -1.5],
        "top_logprobs": [{"do": -0.5}, {"x": -0.1, "ne": -1.5}],
        "text_offset": [0, 2],
    }


def test_every_answer_comes_back_as_a_choice(client: TestClient, worker: Worker) -> None:
    posted = client.post("/v1/completions", json=BACKGROUND | {"n": 2, "best_of": 3, "logit_bias": {"5": -1}}).json()
    job = worker.claim(parse_job_id(posted["id"]))
    assert (job.body["n"], job.body["best_of"], job.body["logit_bias"]) == (2, 3, {"5": -1})
    worker.complete(job, "one", more=["two"])

    result = client.get(f"/v1/jobs/{posted['id']}").json()["result"]

    assert [(choice["index"], choice["text"]) for choice in result["choices"]] == [(0, "one"), (1, "two")]
    assert result["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def test_scores_of_the_prompt_come_as_asked(client: TestClient, worker: Worker) -> None:
    asked = {"max_tokens": 0, "echo": True, "logprobs": 0, "prompt_logprobs": 0}
    posted = client.post("/v1/completions", json=BACKGROUND | asked).json()
    tokens: list[dict[str, Any]] = [{"token": "a", "logprob": None, "offset": 0, "top": []}]
    prompt = [
        {"id": 1, "token": "a", "logprob": None, "rank": None, "top": []},
        {"id": 2, "token": "b", "logprob": -0.5, "rank": 3, "top": []},
    ]
    worker.complete(worker.claim(parse_job_id(posted["id"])), details={"tokens": tokens, "prompt": prompt})

    [choice] = client.get(f"/v1/jobs/{posted['id']}").json()["result"]["choices"]

    assert choice["logprobs"]["token_logprobs"] == [None]
    assert choice["prompt_logprobs"] == [None, {"2": {"logprob": -0.5, "rank": 3, "decoded_token": "b"}}]
