"""The request schema: what is let in, and the code and field named for what is not."""

from typing import Any

import pytest

from models.errors import RequestError
from models.generation import CompletionRequest
from models.requests import num_top_logprobs, parse_request, read_stored, stored_body

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
USER = [{"role": "user", "content": "hi"}]


def test_defaults_are_openais() -> None:
    request = parse_request(COMPLETIONS, {"prompt": "a"})
    assert (request.max_tokens, request.temperature, request.top_p) == (16, 1.0, 1.0)


def test_null_counts_as_absent() -> None:
    assert parse_request(COMPLETIONS, {"prompt": "a", "max_tokens": None, "stop": None}).max_tokens == 16


def test_one_prompt_in_a_list_is_that_prompt() -> None:
    request = parse_request(COMPLETIONS, {"prompt": [[1, 2]]})
    assert isinstance(request, CompletionRequest)
    assert request.prompt == [1, 2]


def test_chat_takes_its_newer_limit_and_has_no_default() -> None:
    assert parse_request(CHAT, {"messages": USER}).max_tokens is None
    assert parse_request(CHAT, {"messages": USER, "max_completion_tokens": 5}).max_tokens == 5


@pytest.mark.parametrize(
    ("endpoint", "fields", "number"),
    [
        (COMPLETIONS, {"prompt": "a"}, None),
        (COMPLETIONS, {"prompt": "a", "logprobs": 0}, 0),
        (CHAT, {"messages": USER, "logprobs": True, "top_logprobs": 3}, 3),
        (CHAT, {"messages": USER, "logprobs": True}, 0),
        (CHAT, {"messages": USER, "top_logprobs": 3}, None),
    ],
)
def test_number_of_top_logprobs(endpoint: str, fields: dict[str, Any], number: int | None) -> None:
    values = read_stored(endpoint, stored_body(parse_request(endpoint, fields)))
    assert num_top_logprobs(values) == number


def test_stored_body_is_read_back_with_every_default() -> None:
    request = parse_request(COMPLETIONS, {"prompt": "a", "stop": "x"})
    assert read_stored(COMPLETIONS, stored_body(request)) == request.model_dump()


def test_field_of_another_version_is_named() -> None:
    with pytest.raises(RequestError, match="from_the_future"):
        read_stored(COMPLETIONS, {"prompt": "a", "from_the_future": 1})


def test_stored_body_parses_to_the_same_request() -> None:
    request = parse_request(COMPLETIONS, {"prompt": "a", "stop": "x", "temperature": 0, "background": True})
    again = parse_request(COMPLETIONS, stored_body(request))
    assert again == request.model_copy(update={"background": False})


def test_fields_that_are_off_are_let_in() -> None:
    off = {"stream": False, "tools": [], "tool_choice": "none", "response_format": {"type": "text"}}
    assert "stream" not in parse_request(COMPLETIONS, {"prompt": "a", **off}).model_dump()
    parse_request(CHAT, {"messages": USER, "echo": False, **off})


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"prompt": ""}, "empty_prompt", "prompt"),
        ({"prompt": []}, "empty_prompt", "prompt"),
        ({"prompt": [1, -1]}, "invalid_token_id", "prompt[1]"),
        ({"prompt": [True]}, "invalid_token_id", "prompt[0]"),
        ({"prompt": [1.0]}, "invalid_token_id", "prompt[0]"),
        ({"prompt": ["a", "b"]}, "unsupported_parameter", "prompt"),
        ({"prompt": 5}, "invalid_value", "prompt"),
        ({"prompt": "\ud800"}, "invalid_unicode", "body"),
        ({"prompt": "a", "user": "\ud800"}, "invalid_unicode", "body"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_tokens": -1}, "invalid_value", "max_tokens"),
        ({"max_tokens": 10**12}, "invalid_value", "max_tokens"),
        ({"max_tokens": "8"}, "invalid_value", "max_tokens"),
        ({"max_tokens": 8.5}, "invalid_value", "max_tokens"),
        ({"max_tokens": True}, "invalid_value", "max_tokens"),
        ({"temperature": -1}, "invalid_value", "temperature"),
        ({"temperature": 3}, "invalid_value", "temperature"),
        ({"temperature": float("nan")}, "invalid_value", "temperature"),
        ({"top_p": 1.1}, "invalid_value", "top_p"),
        ({"top_k": -2}, "invalid_value", "top_k"),
        ({"min_p": 2}, "invalid_value", "min_p"),
        ({"logprobs": 21}, "invalid_value", "logprobs"),
        ({"logprobs": -1}, "invalid_value", "logprobs"),
        ({"seed": 2**64}, "invalid_value", "seed"),
        ({"seed": -1}, "invalid_value", "seed"),
        ({"stop": ["a"] * 5}, "invalid_stop", "stop"),
        ({"stop": ""}, "invalid_stop", "stop"),
        ({"stop": "a" * 257}, "invalid_stop", "stop"),
        ({"stop": [5]}, "invalid_stop", "stop.0"),
        ({"metadata": {str(n): "" for n in range(17)}}, "invalid_metadata", "metadata"),
        ({"metadata": {"a": 1}}, "invalid_metadata", "metadata.a"),
        ({"priority": 10}, "invalid_value", "priority"),
        ({"ttl": 0}, "invalid_value", "ttl"),
        ({"stream": True}, "unsupported_parameter", "stream"),
        ({"stream": 0}, "unsupported_parameter", "stream"),
        ({"tools": [{}]}, "unsupported_parameter", "tools"),
        ({"temprature": 1}, "unknown_parameter", "temprature"),
    ],
)
def test_bad_field_is_named(fields: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request(COMPLETIONS, {"prompt": "a"} | fields)
    assert (caught.value.error_code, caught.value.param) == (code, param)


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([], "invalid_messages"),
        ([{"role": "alien", "content": "a"}], "invalid_messages"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "invalid_messages"),
        (USER * 2049, "invalid_messages"),
    ],
)
def test_bad_messages_are_refused(messages: list[Any], code: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request(CHAT, {"messages": messages})
    assert caught.value.error_code == code


def test_error_never_repeats_the_value() -> None:
    with pytest.raises(RequestError) as caught:
        parse_request(COMPLETIONS, {"prompt": "a", "max_tokens": "secret words"})
    assert "secret" not in str(caught.value)


def test_body_must_be_an_object_of_a_known_endpoint() -> None:
    with pytest.raises(RequestError, match="JSON object"):
        parse_request(COMPLETIONS, [])
    with pytest.raises(RequestError, match="endpoint must be one of"):
        parse_request("/v1/embeddings", {})
