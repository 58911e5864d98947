"""POST /v1/responses and the other shapes, as the official client reads them."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from models.database import Database
from models.ids import parse_job_id
from models.settings import Settings, load_settings
from models.store import Store
from tests.integration.api.conftest import NO_REDIS
from tests.integration.api.fakes import Worker
from tests.integration.api.test_completions import BACKGROUND, BODY, CHAT, error_of

ASKED: dict[str, Any] = {"model": "demo", "input": "hello"}


@pytest.fixture
def sdk(server: httpx.Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="EMPTY", max_retries=0) as client:
        yield client


def test_response_is_read_by_the_official_client(sdk: openai.OpenAI, worker: Worker) -> None:
    worker.finish_all()

    response = sdk.responses.create(model="demo", input="hello", instructions="be brief", metadata={"team": "a"})

    assert response.id.startswith("resp_")
    assert (response.status, response.output_text, response.error) == ("completed", "done", None)
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (3, 2, 5)
    assert (response.metadata, response.instructions) == ({"team": "a"}, "be brief")


def test_background_response_is_polled_to_its_end(sdk: openai.OpenAI, worker: Worker) -> None:
    queued = sdk.responses.create(model="demo", input="hello", background=True)
    worker.complete(worker.claim(parse_job_id(queued.id)), "at last")

    done = sdk.responses.retrieve(queued.id)

    assert (queued.status, queued.output) == ("queued", [])
    assert (done.status, done.output_text) == ("completed", "at last")


def test_output_is_sent_back_as_it_came(sdk: openai.OpenAI, worker: Worker) -> None:
    worker.finish_all()
    first = sdk.responses.create(model="demo", input="hello")
    turns: Any = [{"role": "user", "content": "hello"}, *first.output, {"role": "user", "content": "more"}]

    second = sdk.responses.create(model="demo", input=turns)

    job = worker.store.job(parse_job_id(second.id))
    assert job is not None
    assert [message["content"] for message in job.body["input"]] == ["hello", "done", "more"]


def test_logprobs_of_a_response_come_as_asked(client: TestClient, worker: Worker) -> None:
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 1, "background": True}
    posted = client.post("/v1/responses", json=ASKED | asked).json()
    tokens = [{"token": "do", "logprob": -0.5, "offset": 0, "top": [["do", 5, -0.5], ["di", 9, -1.0]]}]
    worker.complete(worker.claim(parse_job_id(posted["id"])), details={"tokens": tokens})

    [message] = client.get(f"/v1/responses/{posted['id']}").json()["output"]

    [entry] = message["content"][0]["logprobs"]
    assert (entry["token"], entry["bytes"], [top["token"] for top in entry["top_logprobs"]]) == (
        "do",
        [100, 111],
        ["do"],
    )


@pytest.mark.parametrize(
    ("code", "shown"), [("context_length_exceeded", "invalid_prompt"), ("worker_crashed", "server_error")]
)
def test_failed_response_says_whose_fault_it_was(client: TestClient, worker: Worker, code: str, shown: str) -> None:
    posted = client.post("/v1/responses", json=ASKED | {"background": True}).json()
    worker.fail(worker.claim(parse_job_id(posted["id"])), code)

    body = client.get(f"/v1/responses/{posted['id']}").json()

    assert (body["status"], body["output"]) == ("failed", [])
    assert body["error"] == {"code": shown, "message": f"{code}: it was {code}"}


def test_prompts_of_a_list_come_back_as_choices_in_their_order(client: TestClient, worker: Worker) -> None:
    asked = {"prompt": ["a", "b"], "n": 2, "return_token_ids": True}
    posted = client.post("/v1/completions", json=BACKGROUND | asked).json()
    worker.complete(worker.claim(parse_job_id(posted["id"])), "a0", more=["a1", "b0", "b1"])

    body = client.get(f"/v1/completions/{posted['id']}").json()

    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == list(
        enumerate(["a0", "a1", "b0", "b1"])
    )
    assert body["usage"] == {"prompt_tokens": 6, "completion_tokens": 8, "total_tokens": 14}


@pytest.mark.parametrize(
    ("last", "content"),
    [({"role": "assistant", "content": "It is "}, "It is done"), ({"role": "user", "content": "Is it?"}, "done")],
)
def test_echo_of_a_chat_begins_with_what_the_assistant_said(
    client: TestClient, worker: Worker, last: dict[str, str], content: str
) -> None:
    worker.finish_all()

    body = client.post("/v1/chat/completions", json=CHAT | {"messages": [last], "echo": True}).json()

    assert body["choices"][0]["message"]["content"] == content


@pytest.mark.parametrize(("tier", "shown", "priority"), [("flex", "flex", 2), ("fast", "priority", 8)])
def test_tier_is_a_priority_and_is_echoed(client: TestClient, tier: str, shown: str, priority: int) -> None:
    posted = client.post("/v1/chat/completions", json=CHAT | {"background": True, "service_tier": tier}).json()

    assert posted["service_tier"] == shown
    assert client.get(f"/v1/jobs/{posted['id']}").json()["priority"] == priority


@pytest.mark.parametrize("settings", [load_settings(redis_url=NO_REDIS, sync_timeout_seconds=0.1)])
def test_timeout_may_become_a_background_job(client: TestClient) -> None:
    answer = client.post("/v1/completions", json=BODY | {"on_timeout": "background"})

    assert (answer.status_code, answer.json()["status"]) == (200, "queued")


def test_key_in_the_body_is_the_keys_mirror(client: TestClient, database: Database) -> None:
    first = client.post("/v1/completions", json=BACKGROUND, headers={"idempotency-key": "k"})
    again = client.post("/v1/completions", json=BACKGROUND | {"idempotency_key": "k"})

    assert (again.json()["id"], again.headers["idempotent-replayed"]) == (first.json()["id"], "true")
    assert Store(database).queue_depth() == {"demo": 1}


@pytest.mark.parametrize(
    "settings", [load_settings(redis_url=NO_REDIS, model="demo", model_aliases={"gpt-4o": "demo"})]
)
def test_alias_is_its_model_from_acceptance_on(client: TestClient, database: Database) -> None:
    posted = client.post("/v1/responses", json=ASKED | {"background": True, "model": "gpt-4o"}).json()

    job = Store(database).job(parse_job_id(posted["id"]))
    assert job is not None
    assert (posted["model"], job.model, job.body["model"]) == ("demo", "demo", "demo")


def test_unknown_field_is_dropped_and_named_where_the_operator_says_so(settings: Settings, database: Database) -> None:
    lenient = TestClient(create_app(settings.model_copy(update={"strict": False}), database))

    answer = lenient.post("/v1/completions", json=BACKGROUND | {"temprature": 1, "a\r\nset-cookie: b": 2})

    assert (answer.status_code, answer.headers["x-ignored-parameters"]) == (200, "temprature")
    assert error_of(lenient.post("/v1/completions", json=BACKGROUND | {"tools": [{}]}))[1] == "unsupported_parameter"
