"""Rows to bodies and lines, without a database."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pytest

from api.rendering.bodies import background_body, endpoint_body, error_line, output_line
from models.records import CompletionRecord, JobError, JobRecord
from models.status import Status

ID = UUID("018f0000-0000-7000-8000-000000000001")
BATCH = UUID("018f0000-0000-7000-8000-00000000000b")
AT = datetime(2025, 1, 2, 3, 4, 5, 600_000, tzinfo=UTC)
SECONDS = int(AT.timestamp())
TOKENS = [
    {"token": "é", "logprob": -0.5, "offset": 0, "top": [["é", 7, -0.5], ["e", 8, -1.0]]},
    {"token": "!", "logprob": -3.0, "offset": 1, "top": [["?", 1, -0.1], ["?", 2, -0.2]]},
]
COMPLETION = CompletionRecord(0, "é!", (7, 3), "stop", 4, 2, (-0.5, -3.0), (1, 2), {"tokens": TOKENS}, 11, "fp")


def job(body: dict[str, Any] | None = None, **changes: Any) -> JobRecord:  # noqa: ANN401 (any field)
    record = JobRecord(
        id=ID,
        tenant="default",
        batch_id=None,
        line=None,
        custom_id=None,
        endpoint="/v1/completions",
        model="demo",
        priority=4,
        suspicion=0,
        status=Status.COMPLETED,
        attempt=1,
        cancel_requested=False,
        deadline=None,
        error=None,
        created_at=AT,
        published_at=AT,
        started_at=AT,
        finished_at=AT,
        payload=orjson.dumps(body or {}).decode(),
        completions=(COMPLETION,),
    )
    return replace(record, **changes)


def unfinished(status: Status, **changes: Any) -> JobRecord:  # noqa: ANN401 (any field)
    return job(status=status, completions=(), **changes)


def test_completion_has_openai_shape() -> None:
    assert endpoint_body(job()) == {
        "id": f"cmpl-{ID.hex}",
        "object": "text_completion",
        "created": SECONDS,
        "model": "demo",
        "choices": [{"index": 0, "text": "é!", "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6},
        "system_fingerprint": "fp",
        "seed": 11,
    }


def test_queued_completion_has_no_choices_yet() -> None:
    body = background_body(unfinished(Status.QUEUED))

    assert (body["status"], body["choices"], body["usage"]) == ("queued", [], None)


def test_text_logprobs_are_parallel_lists() -> None:
    """Two tokens may read the same: the likeliest stands. The chosen token is always among the alternatives."""
    [choice] = endpoint_body(job({"logprobs": 2}))["choices"]

    assert choice["logprobs"] == {
        "tokens": ["é", "!"],
        "token_logprobs": [-0.5, -3.0],
        "top_logprobs": [{"é": -0.5, "e": -1.0}, {"?": -0.1, "!": -3.0}],
        "text_offset": [0, 1],
    }


def test_zero_logprobs_are_those_of_the_chosen_tokens_alone() -> None:
    [choice] = endpoint_body(job({"logprobs": 0}))["choices"]

    assert choice["logprobs"]["top_logprobs"] is None
    assert choice["logprobs"]["token_logprobs"] == [-0.5, -3.0]


def test_chat_logprobs_are_one_object_a_token() -> None:
    chat = job({"logprobs": True, "top_logprobs": 1}, endpoint="/v1/chat/completions")

    body = endpoint_body(chat)

    [choice] = body["choices"]
    assert (body["object"], choice["message"]["role"]) == ("chat.completion", "assistant")
    assert choice["logprobs"]["content"][0] == {
        "token": "é",
        "logprob": -0.5,
        "bytes": [0xC3, 0xA9],
        "top_logprobs": [{"token": "é", "logprob": -0.5, "bytes": [0xC3, 0xA9]}],
    }


def test_token_ids_come_only_when_asked_for() -> None:
    [plain], [asked] = endpoint_body(job())["choices"], endpoint_body(job({"return_token_ids": True}))["choices"]

    assert "token_ids" not in plain
    assert (asked["token_ids"], asked["prompt_token_ids"]) == ([7, 3], [1, 2])


def choices_of(record: JobRecord) -> list[dict[str, Any]]:
    """As a client reads them: dumped as an answer is."""
    choices: list[dict[str, Any]] = orjson.loads(orjson.dumps(endpoint_body(record)))["choices"]
    return choices


def test_each_answer_is_a_choice_and_the_prompt_counts_once() -> None:
    second = replace(
        COMPLETION, choice_index=1, text="b", finish_reason="length", output_tokens=5, prompt_token_ids=None
    )
    record = job({"n": 2, "return_token_ids": True}, completions=(COMPLETION, second))

    body = endpoint_body(record)

    assert [(choice["index"], choice["text"], choice["finish_reason"]) for choice in body["choices"]] == [
        (0, "é!", "stop"),
        (1, "b", "length"),
    ]
    assert [choice["prompt_token_ids"] for choice in body["choices"]] == [[1, 2], [1, 2]]
    assert body["usage"] == {"prompt_tokens": 4, "completion_tokens": 7, "total_tokens": 11}
    assert output_line(record)["response"]["body"] == body


def test_each_answer_of_a_chat_is_a_message() -> None:
    second = replace(COMPLETION, choice_index=1, text="b", details={"tokens": TOKENS[:1]})
    body = {"n": 2, "logprobs": True}

    choices = choices_of(job(body, endpoint="/v1/chat/completions", completions=(COMPLETION, second)))

    assert [(choice["index"], choice["message"]["content"]) for choice in choices] == [(0, "é!"), (1, "b")]
    assert [len(choice["logprobs"]["content"]) for choice in choices] == [2, 1]


def test_echoed_first_token_has_neither_logprob_nor_alternatives() -> None:
    first: dict[str, Any] = {"token": "<s>", "logprob": None, "offset": 0, "top": []}
    echoed = replace(COMPLETION, details={"tokens": [first, *TOKENS]})

    [choice] = choices_of(job({"echo": True, "logprobs": 1}, completions=(echoed,)))

    assert choice["logprobs"]["tokens"] == ["<s>", "é", "!"]
    assert choice["logprobs"]["token_logprobs"] == [None, -0.5, -3.0]
    assert choice["logprobs"]["top_logprobs"][0] is None
    assert choice["logprobs"]["top_logprobs"][1] == {"é": -0.5, "e": -1.0}


def test_chosen_token_never_overwrites_a_likelier_one_that_reads_the_same() -> None:
    entry = {"token": "?", "logprob": -3.0, "offset": 0, "top": [["?", 1, -0.1]]}

    [choice] = choices_of(job({"logprobs": 1}, completions=(replace(COMPLETION, details={"tokens": [entry]}),)))

    assert choice["logprobs"]["top_logprobs"] == [{"?": -0.1}]
    assert choice["logprobs"]["token_logprobs"] == [-3.0]


PROMPT = [
    {"id": 1, "token": "<s>", "logprob": None, "rank": None, "top": []},
    {"id": 5, "token": "a", "logprob": -4.0, "rank": 9, "top": [["b", 6, -0.5], ["c", 7, -1.0]]},
    {"id": 6, "token": "b", "logprob": -0.5, "rank": 1, "top": [["b", 6, -0.5], ["c", 7, -1.0]]},
]
PROMPT_LOGPROBS = [
    None,
    {
        "5": {"logprob": -4.0, "rank": 9, "decoded_token": "a"},
        "6": {"logprob": -0.5, "rank": 1, "decoded_token": "b"},
        "7": {"logprob": -1.0, "rank": 2, "decoded_token": "c"},
    },
    {
        "6": {"logprob": -0.5, "rank": 1, "decoded_token": "b"},
        "7": {"logprob": -1.0, "rank": 2, "decoded_token": "c"},
    },
]


def test_prompt_logprobs_are_by_token_id_in_every_choice() -> None:
    first, second = replace(COMPLETION, details={"prompt": PROMPT}), replace(COMPLETION, choice_index=1, details=None)

    choices = choices_of(job({"n": 2, "prompt_logprobs": 2}, completions=(first, second)))

    assert [choice["prompt_logprobs"] for choice in choices] == [PROMPT_LOGPROBS, PROMPT_LOGPROBS]
    assert [choice["logprobs"] for choice in choices] == [None, None]


def test_prompt_logprobs_of_a_chat_stand_beside_its_choices() -> None:
    scored = replace(COMPLETION, details={"prompt": PROMPT, "tokens": TOKENS})
    record = job({"prompt_logprobs": 2}, endpoint="/v1/chat/completions", completions=(scored,))

    body = endpoint_body(record)

    assert body["prompt_logprobs"] == PROMPT_LOGPROBS
    assert "prompt_logprobs" not in body["choices"][0]


def test_prompt_is_not_scored_unless_asked_for() -> None:
    for endpoint in ("/v1/completions", "/v1/chat/completions"):
        body = endpoint_body(job(endpoint=endpoint))
        assert "prompt_logprobs" not in body
        assert "prompt_logprobs" not in body["choices"][0]


def test_output_line_has_openai_batch_shape() -> None:
    line = output_line(job(custom_id="a", batch_id=BATCH, line=3))

    assert line["id"] == f"batch_req_{ID.hex}"
    assert (line["custom_id"], line["error"], "line" in line) == ("a", None, False)
    assert line["response"]["status_code"] == 200
    assert line["response"]["body"]["choices"][0]["text"] == "é!"


def test_line_without_a_custom_id_is_named_by_its_number() -> None:
    line = output_line(job(batch_id=BATCH, line=3))

    assert (line["custom_id"], line["line"]) == (None, 3)


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (Status.CANCELLED, None, "batch_cancelled"),
        (Status.EXPIRED, None, "batch_expired"),
        (Status.EXPIRED, JobError("deadline_exceeded", "The deadline passed."), "batch_expired"),
    ],
)
def test_line_that_was_not_run_to_its_end_has_an_error_alone(status: Status, error: JobError | None, code: str) -> None:
    line = error_line(unfinished(status, error=error, custom_id="a"))

    assert (line["custom_id"], line["response"], line["error"]["code"]) == ("a", None, code)
    assert line["error"]["message"]


@pytest.mark.parametrize(
    ("error", "status_code"),
    [
        (JobError("empty_prompt", "prompt must not be empty"), 400),
        (JobError("model_not_found", "no such model"), 404),
        (JobError("worker_crashed", "it crashed"), 500),
    ],
)
def test_line_that_failed_has_the_response_it_would_have_had_alone(error: JobError, status_code: int) -> None:
    line = error_line(unfinished(Status.FAILED, error=error, custom_id="a"))

    assert (line["response"]["status_code"], line["error"]) == (status_code, None)
    body = line["response"]["body"]["error"]
    assert (body["code"], body["message"]) == (error.code, error.message)
