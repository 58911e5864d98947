"""One line of a prompt file: both forms, and each way a line can be bad."""

from typing import Any

import orjson
import pytest

from models.batch_lines import BatchLine, parse_line

MODELS = frozenset({"demo"})


def parse(line: dict[str, Any] | bytes, *, max_bytes: int = 4096) -> BatchLine:
    raw = line if isinstance(line, bytes) else orjson.dumps(line)
    return parse_line(raw, models=MODELS, max_bytes=max_bytes)


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
    line = parse({"prompt": "a", "priority": 9, "ttl": 60})
    assert (line.priority, line.ttl_seconds) == (9, 60)


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
        (b'{"prompt": "\\ud800"}', "invalid_json", None),
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
