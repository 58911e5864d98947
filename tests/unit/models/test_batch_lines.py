"""One line of a prompt file: both forms, and each way a line can be bad."""

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from models.batch_lines import BatchLine, check_line, parse_line
from models.errors import RequestError


def resolve(name: str | None) -> str:
    if name in (None, "demo"):
        return "demo"
    raise RequestError("model_not_found", "no such model", param="model")


def parse(line: dict[str, Any] | bytes, *, max_bytes: int = 4096, strict: bool = True) -> BatchLine:
    raw = line if isinstance(line, bytes) else orjson.dumps(line)
    return parse_line(raw, resolve=resolve, max_bytes=max_bytes, strict=strict)


def test_short_form_is_a_completion() -> None:
    line = parse({"prompt": "a", "max_tokens": 3, "custom_id": "x"})
    assert line.error is None
    assert (line.custom_id, line.endpoint) == ("x", "/v1/completions")
    assert line.body["prompt"] == "a"
    assert line.body["max_tokens"] == 3


def test_short_form_with_messages_is_a_chat() -> None:
    line = parse({"messages": [{"role": "user", "content": "hi"}]})
    assert (line.error, line.endpoint, line.custom_id) == (None, "/v1/chat/completions", None)


def test_batch_form_gives_its_body() -> None:
    line = parse({"custom_id": "x", "method": "POST", "url": "/v1/completions", "body": {"prompt": [1, 2]}})
    assert line.error is None
    assert line.body["prompt"] == [1, 2]


def test_missing_seed_is_drawn_and_kept() -> None:
    first, second = parse({"prompt": "a"}), parse({"prompt": "a"})
    assert first.body["seed"] != second.body["seed"]


def test_byte_order_mark_is_skipped() -> None:
    assert parse(b'\xef\xbb\xbf{"prompt": "a"}').error is None


def test_priority_and_ttl_are_read() -> None:
    before = datetime.now(UTC)
    line = parse({"prompt": "a", "priority": 9, "ttl": 60, "max_attempts": 2})
    assert (line.priority, line.max_attempts) == (9, 2)
    assert line.deadline is not None
    assert before <= line.deadline - timedelta(seconds=60) <= datetime.now(UTC)


def test_error_keeps_the_custom_id() -> None:
    line = parse({"custom_id": "x", "prompt": ""})
    assert line.error is not None
    assert line.custom_id == "x"


BATCH = {"custom_id": "x", "method": "POST", "url": "/v1/completions", "body": {"prompt": "a"}}


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        (b"nope", "invalid_json", None),
        (b"[1]", "invalid_json", None),
        (b'{"prompt": "a"', "invalid_json", None),
        (b'{"prompt": NaN}', "invalid_json", None),
        (b'{"prompt": "\\ud800"}', "invalid_unicode", None),
        (b'{"prompt": "\xff"}', "invalid_json", None),
        (b'{"prompt": "' + b"a" * 5000 + b'"}', "line_too_long", None),
        ({"custom_id": "x"}, "missing_required_parameter", "prompt"),
        ({**BATCH, "custom_id": None}, "invalid_custom_id", "custom_id"),
        ({**BATCH, "custom_id": 5}, "invalid_custom_id", "custom_id"),
        ({**BATCH, "custom_id": "a" * 513}, "invalid_custom_id", "custom_id"),
        ({**BATCH, "custom_id": "a\nb"}, "invalid_custom_id", "custom_id"),
        ({**BATCH, "method": "GET"}, "invalid_method", "method"),
        ({**BATCH, "url": "/v1/embeddings"}, "invalid_endpoint", "url"),
        ({**BATCH, "body": None}, "missing_required_parameter", "body"),
        ({**BATCH, "extra": 1}, "unknown_parameter", "extra"),
        ({"prompt": "a", "model": "other"}, "model_not_found", "model"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "unknown_parameter", "prompt"),
    ],
)
def test_bad_line_carries_its_error(line: dict[str, Any] | bytes, code: str, param: str | None) -> None:
    error = parse(line).error
    assert error is not None
    assert (error.error_code, error.param) == (code, param)


def test_unknown_field_is_dropped_where_the_service_is_lenient() -> None:
    assert parse({**BATCH, "body": {"prompt": "a", "frobnicate": 1}}).error is not None
    line = parse({**BATCH, "body": {"prompt": "a", "frobnicate": 1}}, strict=False)
    assert line.error is None
    assert "frobnicate" not in line.body


def check(line: dict[str, Any]) -> str:
    return check_line(orjson.dumps(line), endpoint="/v1/completions", max_bytes=4096)


def test_body_is_not_looked_at_where_the_file_is_checked() -> None:
    assert check({**BATCH, "body": {"prompt": "a", "temperature": 5, "model": "none"}}) == "x"
    assert check({**BATCH, "body": None}) == "x"


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"custom_id": None}, "invalid_custom_id", "custom_id"),
        ({"custom_id": ""}, "invalid_custom_id", "custom_id"),
        ({"custom_id": "a\x00b"}, "invalid_custom_id", "custom_id"),
        ({"custom_id": "a" * 513}, "invalid_custom_id", "custom_id"),
        ({"custom_id": ["x"]}, "invalid_custom_id", "custom_id"),
        ({"method": "GET"}, "invalid_method", "method"),
        ({"method": None}, "invalid_method", "method"),
        ({"url": "/v1/chat/completions"}, "mismatched_endpoint", "url"),
        ({"url": None}, "mismatched_endpoint", "url"),
    ],
)
def test_structure_of_a_line_is_refused(change: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(RequestError) as refusal:
        check({**BATCH, **change})
    assert (refusal.value.error_code, refusal.value.param) == (code, param)
