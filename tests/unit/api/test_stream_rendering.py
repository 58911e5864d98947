"""Pieces and ends to OpenAI's chunks, without a server."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from api.rendering.progress import Item
from api.rendering.streams import DONE, Chunks, ServerEvent
from models.feed import Delta
from models.records import JobRecord
from models.status import Status
from tests.unit.api.test_rendering import COMPLETION, ID, SECONDS, TOKENS, job, unfinished

CHAT = "/v1/chat/completions"
HEAD = {"id": f"cmpl-{ID.hex}", "object": "text_completion", "created": SECONDS, "model": "demo"}
CHAT_HEAD = HEAD | {"id": f"chatcmpl-{ID.hex}", "object": "chat.completion.chunk"}
END: dict[str, Any] = {"system_fingerprint": "fp", "seed": 11}
PIECE = Delta(0, 0, "é!", 0, TOKENS, (7, 3))


def chunks(record: JobRecord, *items: Item) -> list[Any]:
    """What is sent for the items; the final record is the last of them."""
    rendered = Chunks(record)
    sent = [body for item in (*items, record) for body in rendered.render(item)]
    assert sent.pop() == DONE
    assert all(body.startswith(b"data: ") and body.endswith(b"\n\n") for body in sent)
    return [orjson.loads(body.removeprefix(b"data: ")) for body in sent]


def choice(index: int = 0, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 (any JSON)
    return {"index": index, "logprobs": None, "finish_reason": None} | changes


def test_text_chunks_end_with_a_reason() -> None:
    assert chunks(job(), unfinished(Status.QUEUED), Delta(0, 0, "é"), Delta(0, 1, "!")) == [
        HEAD | {"choices": [choice(text="é")]},
        HEAD | {"choices": [choice(text="!")]},
        HEAD | {"choices": [choice(text="", finish_reason="stop")]} | END,
    ]


def test_chat_chunks_begin_with_a_role() -> None:
    record = job(endpoint=CHAT)

    assert chunks(record, Delta(0, 0, "é"), Delta(0, 1, "!")) == [
        CHAT_HEAD | {"choices": [choice(delta={"role": "assistant", "content": ""})]},
        CHAT_HEAD | {"choices": [choice(delta={"content": "é"})]},
        CHAT_HEAD | {"choices": [choice(delta={"content": "!"})]},
        CHAT_HEAD | {"choices": [choice(delta={}, finish_reason="stop")]} | END,
    ]


def test_each_choice_has_its_own_beginning_and_end() -> None:
    record = job(endpoint=CHAT, completions=(COMPLETION, replace(COMPLETION, choice_index=1)))

    sent = [chunk["choices"][0] for chunk in chunks(record, Delta(1, 0, "é!"))]

    roles = [entry["index"] for entry in sent if "role" in entry["delta"]]
    assert (roles, [entry["index"] for entry in sent if entry["finish_reason"]]) == ([1, 0], [0, 1])


def test_usage_comes_last_and_is_null_before() -> None:
    sent = chunks(job({"stream_options": {"include_usage": True}}), Delta(0, 0, "é!"))

    spent = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
    assert [(chunk["usage"], len(chunk["choices"])) for chunk in sent] == [(None, 1), (None, 1), (spent, 0)]


def logprobs(record: JobRecord, items: Sequence[Item]) -> list[Any]:
    choices = [chunk["choices"][0] for chunk in chunks(record, *items)]
    return [entry["logprobs"] for entry in choices if entry["logprobs"] is not None]


def test_logprobs_come_with_their_text() -> None:
    [entry] = logprobs(job({"logprobs": 1}), [PIECE])

    assert (entry["tokens"], entry["text_offset"], entry["token_logprobs"]) == (["é", "!"], [0, 1], [-0.5, -3.0])


def test_logprobs_of_a_chat_are_cut_to_what_was_asked() -> None:
    [entry] = logprobs(job({"logprobs": True, "top_logprobs": 1}, endpoint=CHAT), [PIECE])

    assert [len(token["top_logprobs"]) for token in entry["content"]] == [1, 1]


def test_logprobs_that_a_chat_declined_are_not_sent() -> None:
    assert logprobs(job({"logprobs": False}, endpoint=CHAT), [Delta(0, 0, "é!")]) == []


def test_token_ids_come_with_their_text_and_the_prompts_at_the_end() -> None:
    prompt = [{"id": 1, "token": "a", "logprob": None, "rank": None, "top": []}]
    completion = replace(COMPLETION, details={"tokens": TOKENS, "prompt": prompt})

    first, last = chunks(job({"return_token_ids": True}, completions=(completion,)), PIECE)

    assert first["choices"][0]["token_ids"] == [7, 3]
    assert (last["choices"][0]["prompt_token_ids"], last["choices"][0]["prompt_logprobs"]) == ([1, 2], [None])


def test_event_is_written_in_one_line_each() -> None:
    """Some clients split at everything that Python calls a line boundary, which a model may well generate."""
    data = {"text": "a\nb\r\u2028\u2029\x85\x1c\x0bé\u2027"}

    written = ServerEvent(data, name="delta", id="queued.0").encode().decode()

    name, id, content, end = written.splitlines()
    assert (name, id, end) == ("event: delta", "id: queued.0", "")
    assert orjson.loads(content.removeprefix("data: ")) == data
