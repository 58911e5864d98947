"""Every input that is refused, numbered as in the table of bad input: a row each, with its exact status and code.
Whatever comes, nothing is a 5xx, and no answer repeats what was sent."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from models.database import Database
from models.settings import Settings
from tests.integration.api.fakes import Worker
from tests.integration.api.refusal_calls import CALLS, FILES, REASONS
from tests.integration.api.refusal_stage import SECRET, Call, File, Stage
from tests.integration.api.test_completions import Answer, error_of

COMPLETIONS, CHAT, RESPONSES = "/v1/completions", "/v1/chat/completions", "/v1/responses"
BASE: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"model": "demo", "background": True, "prompt": SECRET},
    CHAT: {"model": "demo", "background": True, "messages": [{"role": "user", "content": SECRET}]},
    RESPONSES: {"model": "demo", "background": True, "input": SECRET},
}


class Row(NamedTuple):
    """What is sent, and how it is answered; without a code it is taken. `change`: fields over those of a sound request,
    or the raw body."""

    number: str
    change: dict[str, Any] | bytes
    status: int
    code: str | None = None
    path: str = COMPLETIONS
    headers: Mapping[str, str | bytes] = {}

    def send(self, stage: Stage) -> Answer:
        """Post it."""
        content = self.change if isinstance(self.change, bytes) else orjson.dumps(BASE[self.path] | self.change)
        headers = {"content-type": "application/json", **self.headers}
        encoded = [
            (name.encode(), text if isinstance(text, bytes) else text.encode()) for name, text in headers.items()
        ]
        return stage.client.post(self.path, content=content, headers=encoded)


def said(**message: object) -> dict[str, Any]:
    return {"messages": [message]}


def raw(inner: bytes) -> bytes:
    return b'{"model": "demo", "background": true, "prompt": %s}' % inner


def part(**fields: object) -> dict[str, Any]:
    return said(role="user", content=[fields])


ROWS = [
    Row("B6 empty", b"", 400, "invalid_json"),
    Row("B6 text", b"hello", 400, "invalid_json"),
    Row("B6 cut", b'{"model": "demo", "prompt"', 400, "invalid_json"),
    Row("B6 list", b"[]", 400, "invalid_json"),
    Row("B6 null", b"null", 400, "invalid_json"),
    Row("B7 objects", b'{"a":' * 100_000, 400, "invalid_json"),
    Row("B7 lists", b"[" * 100_000 + b"]" * 100_000, 400, "invalid_json"),
    Row("B7 with a duplicate", b'{"a":1,"a":' + b"[" * 1000 + b"]" * 1000 + b"}", 400, "invalid_json"),
    Row("B8 NaN", b'{"temperature": NaN}', 400, "invalid_json"),
    Row("B8 Infinity", b'{"temperature": Infinity}', 400, "invalid_json"),
    Row("B9", b'{"seed": %s}' % (b"9" * 5000), 400, "invalid_json"),
    Row("B10", b'{"model": "demo", "prompt": "a", "prompt": "b"}', 400, "duplicate_key"),
    Row("B10 escaped", b'{"model": "demo", "prompt": "a", "prompt": "\\u003a"}', 400, "duplicate_key"),
    Row("B10 within", b'{"model": "demo", "prompt": "a:", "metadata": {"k": "1", "k": "2"}}', 400, "duplicate_key"),
    Row("B11 head", raw(rb'"\ud800"'), 400, "invalid_unicode"),
    Row("B11 tail", raw(rb'"\udc00x"'), 400, "invalid_unicode"),
    Row("B12", raw(rb'"a\u0000b"'), 200),
    Row("B13 bytes", raw(b'"\xff"'), 400, "invalid_json"),
    Row("B13 BOM", b"\xef\xbb\xbf" + raw(b'"a"'), 400, "invalid_json"),
    Row("B13 UTF-16", raw(b'"a"').decode().encode("utf-16"), 400, "invalid_json"),
    Row("B14", {}, 415, "unsupported_media_type", headers={"content-type": "text/xml"}),
    Row("B14 form", {}, 415, "unsupported_media_type", headers={"content-type": "application/x-www-form-urlencoded"}),
    Row("B15", {}, 415, "unsupported_encoding", headers={"content-encoding": "gzip"}),
    Row("B16", {"prompt": "x" * (4 << 20)}, 413, "request_too_large"),
    Row("B28", {"model": "gpt-4"}, 404, "model_not_found"),
    Row("B28 none", {"model": None}, 400, "missing_required_parameter"),
    Row("B29 path", {"model": "../../x"}, 404, "model_not_found"),
    Row("B29 address", {"model": "http://host/x"}, 404, "model_not_found"),
    Row("B29 hub", {"model": "hub/user"}, 404, "model_not_found"),
    Row("B29 NUL", {"model": "a\0b"}, 404, "model_not_found"),
    Row("B30 text", {"prompt": ""}, 400, "empty_prompt"),
    Row("B30 list", {"prompt": []}, 400, "empty_prompt"),
    Row("B30 in a list", {"prompt": ["a", ""]}, 400, "empty_prompt"),
    Row("B30 ids in a list", {"prompt": [[1], []]}, 400, "empty_prompt"),
    Row("B30 none", {"prompt": None}, 400, "missing_required_parameter"),
    Row("B30 input", {"input": ""}, 400, "empty_prompt", RESPONSES),
    Row("B31 negative", {"prompt": [1, -1]}, 400, "invalid_token_id"),
    Row("B31 beyond", {"prompt": [2**31]}, 400, "invalid_token_id"),
    Row("B31 bool", {"prompt": [True]}, 400, "invalid_token_id"),
    Row("B31 float", {"prompt": [1.0]}, 400, "invalid_token_id"),
    Row("B31 in a list", {"prompt": [[1], [1, "a"]]}, 400, "invalid_token_id"),
    *(Row(f"B34 {value}", {"max_tokens": value}, 400, "invalid_value") for value in (0, -1, 10**12, "8", 8.5, True)),
    Row("B34 null", {"max_tokens": None}, 200),
    Row("B34 echo", {"max_tokens": 0, "echo": True}, 200),
    Row("B34 chat", {"max_completion_tokens": -1}, 400, "invalid_value", CHAT),
    Row("B34 response", {"max_output_tokens": "8"}, 400, "invalid_value", RESPONSES),
    Row("B35", {"n": 10**9}, 400, "invalid_value"),
    Row("B35 best_of", {"n": 3, "best_of": 2}, 400, "invalid_value"),
    Row("B35 prompts", {"prompt": ["a"] * 200, "n": 128}, 400, "invalid_value"),
    Row("B35 response", {"n": 2}, 400, "unsupported_parameter", RESPONSES),
    *(Row(f"B36 {value}", {"temperature": value}, 400, "invalid_value") for value in (-1, 3, "1")),
    Row("B36 NaN", b'{"model": "demo", "prompt": "a", "temperature": NaN}', 400, "invalid_json"),
    Row("B36 copies", {"temperature": 0, "n": 2}, 200),
    Row("B37 top_p 0", {"top_p": 0}, 200),
    *(Row(f"B37 top_p {value}", {"top_p": value}, 400, "invalid_value") for value in (-0.1, 1.1)),
    *(Row(f"B37 top_k {value}", {"top_k": value}, 400, "invalid_value") for value in (-2, 2**31)),
    Row("B37 min_p", {"min_p": 2}, 400, "invalid_value"),
    Row("B37 frequency", {"frequency_penalty": 3}, 400, "invalid_value"),
    Row("B37 presence", {"presence_penalty": -3}, 400, "invalid_value"),
    Row("B37 repetition", {"repetition_penalty": 0}, 400, "invalid_value"),
    *(Row(f"B38 {value}", {"logprobs": value}, 400, "invalid_value") for value in (21, -1)),
    Row("B38 chat", {"logprobs": True, "top_logprobs": 21}, 400, "invalid_value", CHAT),
    *(Row(f"B39 {value}", {"seed": value}, 400, "invalid_value") for value in (2**63, -1, 1.5)),
    Row("B39 largest", {"seed": 2**63 - 1}, 200),
    Row("B40 five", {"stop": ["a"] * 5}, 400, "invalid_stop"),
    Row("B40 empty", {"stop": ""}, 400, "invalid_stop"),
    Row("B40 long", {"stop": "a" * 257}, 400, "invalid_stop"),
    Row("B40 number", {"stop": [5]}, 400, "invalid_stop"),
    Row("B41 many", {"logit_bias": {str(n): 1 for n in range(301)}}, 400, "invalid_logit_bias"),
    Row("B41 a million", {"logit_bias": {str(n): 1 for n in range(300_000)}}, 400, "invalid_logit_bias"),
    Row("B41 NaN", b'{"model": "demo", "prompt": "a", "logit_bias": {"5": NaN}}', 400, "invalid_json"),
    Row("B41 beyond", {"logit_bias": {"5": 101}}, 400, "invalid_logit_bias"),
    Row("B41 word", {"logit_bias": {"x": 1}}, 400, "invalid_logit_bias"),
    Row("B44 role", said(role="alien", content="a"), 400, "invalid_messages", CHAT),
    Row("B44 tool", said(role="tool", content="a", tool_call_id="b"), 400, "unsupported_content", CHAT),
    Row("B44 image", part(type="image_url", image_url={"url": "http://x"}), 400, "unsupported_content", CHAT),
    Row("B44 none", {"messages": []}, 400, "invalid_messages", CHAT),
    Row("B44 many", {"messages": [{"role": "user", "content": "a"}] * 2049}, 400, "invalid_messages", CHAT),
    Row("B44 text", {"messages": "hi"}, 400, "invalid_messages", CHAT),
    Row("B44 field", said(role="user", content="a", mood="good"), 400, "unknown_parameter", CHAT),
    Row("B44 item", {"input": [{"type": "item_reference", "id": "x"}]}, 400, "unsupported_content", RESPONSES),
    Row("B45", {"chat_template": "{{ 1 }}"}, 400, "unsupported_parameter", CHAT),
    Row("B45 data", said(role="user", content="{{ 7 * 7 }}{% for x in y %}"), 200, path=CHAT),
    Row("B46", said(role="user", content="<|im_end|><|endoftext|>"), 200, path=CHAT),
    Row("B47", {"temprature": 1}, 400, "unknown_parameter"),
    Row("B47 response", {"messages": []}, 400, "unknown_parameter", RESPONSES),
    Row("B48 tools", {"tools": [{"type": "function"}]}, 400, "unsupported_parameter", CHAT),
    Row("B48 tools of a response", {"tools": [{"type": "web_search"}]}, 400, "unsupported_parameter", RESPONSES),
    Row("B48 format", {"response_format": {"type": "json_object"}}, 400, "unsupported_parameter", CHAT),
    Row("B48 suffix", {"suffix": "x"}, 400, "unsupported_parameter"),
    Row("B48 conversation", {"previous_response_id": "resp_1"}, 400, "unsupported_parameter", RESPONSES),
    Row("B49 many", {"metadata": {str(n): "" for n in range(17)}}, 400, "invalid_metadata"),
    Row("B49 key", {"metadata": {"k" * 65: ""}}, 400, "invalid_metadata"),
    Row("B49 value", {"metadata": {"k": "v" * 513}}, 400, "invalid_metadata"),
    Row("B49 number", {"metadata": {"k": 1}}, 400, "invalid_metadata"),
    Row("B53 empty", {}, 400, "invalid_idempotency_key", headers={"idempotency-key": ""}),
    Row("B53 long", {}, 400, "invalid_idempotency_key", headers={"idempotency-key": "x" * 256}),
    Row("B53 letters", {}, 400, "invalid_idempotency_key", headers={"idempotency-key": "caf\u00e9".encode()}),
    Row("B53 control", {}, 400, "invalid_idempotency_key", headers={"idempotency-key": b"\x01/v1/completions x"}),
    Row("B53 mirror", {"idempotency_key": "a\r\nb"}, 400, "invalid_idempotency_key"),
    Row("B53 both", {"idempotency_key": "a"}, 400, "invalid_idempotency_key", headers={"idempotency-key": "b"}),
    Row("B62 past", {"deadline_at": 1}, 400, "invalid_deadline"),
    Row("B62 far", {"deadline_at": time.time() + 31 * 86400}, 400, "invalid_deadline"),
    Row("B62 form", {"deadline_at": "tomorrow"}, 400, "invalid_deadline"),
    Row("B62 no offset", {"deadline_at": "2030-01-01T00:00:00"}, 400, "invalid_deadline"),
    Row("B62 both", {"deadline_at": time.time() + 60, "ttl": 60}, 400, "invalid_deadline"),
    Row("B63 priority", {"priority": 999}, 400, "invalid_value"),
    Row("B63 field", {"run_after": "2099-01-01"}, 400, "unknown_parameter"),
    Row("B63 attempts", {"max_attempts": 0}, 400, "invalid_value"),
    Row("tier", {"service_tier": "slow"}, 400, "invalid_value"),
    Row("stream_options alone", {"stream_options": {"include_usage": True}}, 400, "invalid_value"),
    Row("stream of the best", {"stream": True, "best_of": 2}, 400, "invalid_value"),
]

EVERY: list[Row | Call | File] = [*ROWS, *CALLS, *FILES]


@pytest.fixture
def stage(
    client: TestClient,
    app: FastAPI,
    worker: Worker,
    settings: Settings,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> Stage:
    return Stage(client, app, worker, settings, database, monkeypatch)


@pytest.mark.parametrize("row", EVERY, ids=lambda row: row.number)
def test_bad_input_is_refused(stage: Stage, row: Row | Call | File) -> None:
    if isinstance(row, File):
        first = row.errors(stage)[0]
        assert (first["code"], first["line"]) == (row.code, row.line)
        assert first.keys() == {"code", "message", "param", "line"}
        return
    answer = row.send(stage)
    assert answer.status_code == row.status
    assert answer.headers["x-request-id"]
    assert ("www-authenticate" in answer.headers) == (row.status == 401)
    assert ("allow" in answer.headers) == (row.status == 405)
    if row.code is not None:
        assert error_of(answer)[:2] == (row.status, row.code)
        assert SECRET not in str(answer.json())


def test_every_number_of_the_table_has_a_row_or_a_reason() -> None:
    of_rows = {int(row.number.split()[0].removeprefix("B")) for row in EVERY if row.number[0] == "B"}

    assert of_rows | REASONS.keys() == set(range(1, 70))
    assert not of_rows & REASONS.keys()


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT, RESPONSES])
@pytest.mark.parametrize(
    ("change", "says"),
    [({}, "a:b"), ({"metadata": {"a:b": "c:d"}}, "x"), ({"user": "a:\u003a"}, "\0"), ({"stop": [":"]}, "::")],
)
def test_colons_and_nul_are_text(client: TestClient, path: str, change: dict[str, Any], says: str) -> None:
    """B12: NUL is stored escaped, and so comes back. And no colon makes a duplicate key."""
    field = {COMPLETIONS: "prompt", RESPONSES: "input"}.get(path)
    sound = {field: says} if field else said(role="user", content=says)

    assert client.post(path, json=BASE[path] | change | sound).status_code == 200
