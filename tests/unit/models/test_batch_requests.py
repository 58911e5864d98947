"""The body of POST /v1/batches: what is let in, and the code and field named for what is not."""

from typing import Any

import pytest

from models.batch_requests import parse_batch_request, parse_retry_request, window_seconds, window_text
from models.errors import RequestError

BODY: dict[str, Any] = {
    "input_file_id": "file-0",
    "endpoint": "/v1/completions",
    "completion_window": "24h",
}
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "a"}}
EXPIRY = {"anchor": "created_at", "seconds": 3600}
ENOUGH_PAIRS = {f"k{number}": "v" for number in range(16)}


def test_openais_body_is_enough() -> None:
    request = parse_batch_request(BODY | {"metadata": None})

    assert (request.priority, request.metadata, request.output_expires_after) == (4, {}, None)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1), ("90m", 5400), ("24h", 86_400), ("1d", 86_400), ("30d", 2_592_000)]
)
def test_window_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert window_seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "24", "h", "0h", "-1h", "1.5h", "24 h", "24H", "1w", "31d", "721h", "9999999d", "٢h"]
)
def test_other_window_is_refused(text: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse_batch_request(BODY | {"completion_window": text})

    assert (refused.value.error_code, refused.value.param) == ("invalid_completion_window", "completion_window")


@pytest.mark.parametrize(("seconds", "text"), [(86_400, "24h"), (5400, "90m"), (61, "61s")])
def test_window_known_by_its_length_is_written_as_openai_writes_it(seconds: int, text: str) -> None:
    assert window_text(seconds) == text


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, "invalid_endpoint", "endpoint"),
        ({"endpoint": None}, "missing_required_parameter", "endpoint"),
        ({"completion_window": None}, "missing_required_parameter", "completion_window"),
        ({"input_file_id": None}, "missing_required_parameter", "input_file_id"),
        ({"requests": [LINE]}, "invalid_value", "input_file_id"),
        ({"input_file_id": None, "requests": []}, "invalid_value", "requests"),
        ({"input_file_id": None, "requests": [LINE] * 1001}, "invalid_value", "requests"),
        ({"input_file_id": None, "requests": ["a"]}, "invalid_value", "requests.0"),
        ({"metadata": {"k" * 65: "v"}}, "invalid_metadata", "metadata"),
        ({"metadata": {"k": "v" * 513}}, "invalid_metadata", "metadata"),
        ({"metadata": ENOUGH_PAIRS | {"more": "v"}}, "invalid_metadata", "metadata"),
        ({"metadata": {"k": 1}}, "invalid_metadata", "metadata.k"),
        ({"priority": 10}, "invalid_value", "priority"),
        ({"priority": True}, "invalid_value", "priority"),
        ({"max_attempts": 0}, "invalid_value", "max_attempts"),
        ({"output_expires_after": EXPIRY | {"seconds": 3599}}, "invalid_value", "output_expires_after.seconds"),
        ({"output_expires_after": EXPIRY | {"anchor": "now"}}, "invalid_value", "output_expires_after.anchor"),
        ({"ordered": "yes"}, "invalid_value", "ordered"),
        ({"webhook": {"url": "https://example.com"}}, "unsupported_parameter", "webhook"),
        ({"output_format": "parquet"}, "unsupported_parameter", "output_format"),
        ({"run_after": 1}, "unknown_parameter", "run_after"),
    ],
)  # fmt: skip
def test_bad_field_is_named(changes: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse_batch_request(BODY | changes)

    assert (refused.value.error_code, refused.value.param) == (code, param)


def test_limits_themselves_are_let_in() -> None:
    limits = {"metadata": ENOUGH_PAIRS, "priority": 0, "max_attempts": 100, "ordered": False, "output_format": "jsonl"}
    request = parse_batch_request(BODY | limits | {"output_expires_after": EXPIRY, "completion_window": "30d"})

    assert (len(request.metadata), request.max_attempts) == (16, 100)
    inline = parse_batch_request(BODY | {"input_file_id": None, "requests": [LINE] * 1000})
    assert inline.requests is not None
    assert len(inline.requests) == 1000


def test_unknown_field_is_dropped_where_the_service_is_lenient() -> None:
    assert parse_batch_request(BODY | {"run_after": 1}, strict=False).endpoint == "/v1/completions"


def test_body_must_be_an_object() -> None:
    with pytest.raises(RequestError, match="JSON object"):
        parse_batch_request([BODY])


def test_retry_may_change_priority_window_and_metadata_alone() -> None:
    assert parse_retry_request({"priority": 9}).priority == 9
    with pytest.raises(RequestError) as refused:
        parse_retry_request({"endpoint": "/v1/completions"})
    assert refused.value.error_code == "unknown_parameter"
