"""Stored completions, chats and responses by id, through the official client where it knows them."""

from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from openai import NotFoundError, OpenAI

from models.database import Database
from models.ids import parse_job_id
from models.store import Store
from tests.integration.api.fakes import Worker
from tests.integration.api.test_completions import BODY, CHAT, error_of

RESPONSE = {"model": "demo", "input": "hello"}


@pytest.fixture
def openai(server: httpx.Client) -> OpenAI:
    return OpenAI(base_url=f"{server.base_url}/v1", api_key="EMPTY", max_retries=0)


def chat(openai: OpenAI, text: str = "hello", **fields: Any) -> str:  # noqa: ANN401 (any field)
    message = {"role": "user", "content": text}
    extra = {"background": True, **fields}
    return openai.chat.completions.create(model="demo", messages=[message], extra_body=extra).id  # type: ignore[list-item]


def finish(worker: Worker, id: str) -> None:
    worker.complete(worker.claim(parse_job_id(id)))


def test_chat_is_retrieved_in_every_status(openai: OpenAI, worker: Worker) -> None:
    id = chat(openai)
    queued = openai.chat.completions.retrieve(id)
    finish(worker, id)
    done = openai.chat.completions.retrieve(id)

    assert (queued.id, queued.choices, queued.model_extra["status"]) == (id, [], "queued")  # type: ignore[index]
    assert done.choices[0].message.content == "done"
    assert done.usage is not None
    assert done.usage.total_tokens == 5


def test_failed_chat_says_why(openai: OpenAI, worker: Worker) -> None:
    id = chat(openai)
    worker.fail(worker.claim(parse_job_id(id)), "out_of_memory")

    failed: Any = openai.chat.completions.retrieve(id).to_dict()

    assert (failed["status"], failed["error"]["code"]) == ("failed", "out_of_memory")


def test_chats_are_listed_through_their_pages(openai: OpenAI, server: httpx.Client) -> None:
    ids = [chat(openai, metadata={"run": str(index % 2)}) for index in range(5)]
    server.post("/v1/completions", json=BODY | {"background": True})

    assert [item.id for item in openai.chat.completions.list(limit=2)] == ids
    assert [item.id for item in openai.chat.completions.list(limit=2, order="desc")] == ids[::-1]
    assert [item.id for item in openai.chat.completions.list(limit=1, metadata={"run": "1"})] == ids[1::2]
    assert list(openai.chat.completions.list(model="other")) == []


def test_chat_gets_other_metadata(openai: OpenAI) -> None:
    id = chat(openai, metadata={"run": "1"})

    updated = openai.chat.completions.update(id, metadata={"team": "a"})

    assert updated.to_dict()["metadata"] == {"team": "a"}
    assert [item.id for item in openai.chat.completions.list(metadata={"team": "a"})] == [id]
    assert list(openai.chat.completions.list(metadata={"run": "1"})) == []


def test_deleted_chat_is_gone(openai: OpenAI, worker: Worker) -> None:
    id = chat(openai)
    finish(worker, id)

    deleted = openai.chat.completions.delete(id)

    assert (deleted.id, deleted.deleted, deleted.object) == (id, True, "chat.completion.deleted")
    with pytest.raises(NotFoundError):
        openai.chat.completions.retrieve(id)


def test_messages_of_a_chat_are_listed(openai: OpenAI) -> None:
    turns: Any = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
    id = openai.chat.completions.create(model="demo", messages=turns, extra_body={"background": True}).id

    messages = list(openai.chat.completions.messages.list(id, limit=3))

    assert [(message.id, message.content) for message in messages] == [
        (f"{id}-{index}", turn["content"]) for index, turn in enumerate(turns)
    ]
    assert next(iter(openai.chat.completions.messages.list(id, order="desc"))).id == f"{id}-3"


def test_response_is_retrieved_cancelled_and_deleted(openai: OpenAI, worker: Worker) -> None:
    id = openai.responses.create(model="demo", input="hello", background=True).id
    queued = openai.responses.retrieve(id)

    cancelled = openai.responses.cancel(id)
    again = openai.responses.cancel(id)
    openai.responses.delete(id)

    assert (queued.status, cancelled.status, again.status) == ("queued", "cancelled", "cancelled")
    with pytest.raises(NotFoundError):
        openai.responses.retrieve(id)


def test_finished_response_has_its_output(openai: OpenAI, worker: Worker) -> None:
    id = openai.responses.create(model="demo", input="hello", background=True).id
    finish(worker, id)

    response = openai.responses.retrieve(id)

    assert (response.status, response.output_text) == ("completed", "done")


def test_input_items_of_a_response_are_listed(openai: OpenAI) -> None:
    turns: Any = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    id = openai.responses.create(model="demo", input=turns, instructions="be brief", background=True).id

    items: Any = list(openai.responses.input_items.list(id, limit=1))

    assert [(item.role, item.content[0].type, item.content[0].text) for item in items] == [
        ("assistant", "output_text", "two"),
        ("user", "input_text", "one"),
    ]


def test_completion_is_read_cancelled_and_deleted(openai: OpenAI, worker: Worker, database: Database) -> None:
    id = openai.completions.create(model="demo", prompt="hello", extra_body={"background": True}).id

    queued: Any = openai.get(f"/completions/{id}", cast_to=object)
    cancelled: Any = openai.post(f"/completions/{id}/cancel", cast_to=object)
    deleted: Any = openai.delete(f"/completions/{id}", cast_to=object)

    assert (queued["status"], cancelled["status"], cancelled["error"]["code"]) == (
        "queued",
        "cancelled",
        "batch_cancelled",
    )
    assert deleted == {"id": id, "object": "text_completion.deleted", "deleted": True}
    assert Store(database).job(parse_job_id(id)) is None


def test_native_view_works_with_the_same_client(openai: OpenAI, worker: Worker) -> None:
    id = chat(openai)
    finish(worker, id)

    job: Any = openai.get(f"/jobs/{id}", cast_to=object)
    poll: Any = openai.post("/jobs/poll", body={"ids": [id]}, cast_to=object)

    assert (job["status"], job["result"]["id"], poll["data"][0]["status"]) == ("completed", id, "completed")


def test_running_completion_is_cancelled_by_its_owner(client: TestClient, worker: Worker) -> None:
    id = client.post("/v1/completions", json=BODY | {"background": True}).json()["id"]
    claimed = worker.claim(parse_job_id(id))

    asked = client.post(f"/v1/completions/{id}/cancel").json()
    worker.cancel(claimed)

    assert (asked["status"], client.get(f"/v1/completions/{id}").json()["status"]) == ("in_progress", "cancelled")


def test_completion_waits_where_it_is_asked_to(client: TestClient, worker: Worker) -> None:
    id = client.post("/v1/chat/completions", json=CHAT | {"background": True}).json()["id"]
    worker.finish_all()

    assert client.get(f"/v1/chat/completions/{id}", params={"wait": 20}).json()["status"] == "completed"


@pytest.mark.parametrize(
    ("path", "code", "param"),
    [
        ("/v1/chat/completions?limit=0", "invalid_limit", "limit"),
        ("/v1/chat/completions?after=nobody", "invalid_cursor", "after"),
        ("/v1/chat/completions/{id}/messages?after=nobody", "invalid_cursor", "after"),
        ("/v1/chat/completions/{id}/messages?limit=101", "invalid_limit", "limit"),
        ("/v1/chat/completions/{id}/messages?order=up", "invalid_value", "order"),
    ],
)
def test_bad_page_is_named(client: TestClient, path: str, code: str, param: str) -> None:
    id = client.post("/v1/chat/completions", json=CHAT | {"background": True}).json()["id"]

    assert error_of(client.get(path.format(id=id))) == (400, code, param)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_required_parameter", "metadata"),
        ({"metadata": {"k": 1}}, "invalid_metadata", "metadata.k"),
        ({"metadata": {}, "messages": []}, "unknown_parameter", "messages"),
    ],
)
def test_bad_update_is_named(client: TestClient, body: dict[str, Any], code: str, param: str) -> None:
    id = client.post("/v1/chat/completions", json=CHAT | {"background": True}).json()["id"]

    assert error_of(client.post(f"/v1/chat/completions/{id}", json=body)) == (400, code, param)
