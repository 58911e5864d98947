"""The request schema: what is let in, and the code and field named for what is not."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from models.errors import RequestError
from models.generation import CompletionRequest
from models.requests import (
    CHAT,
    COMPLETIONS,
    RESPONSES,
    chat_messages,
    known_fields,
    num_top_logprobs,
    parse_body,
    parse_request,
    read_stored,
    stored_body,
)
from models.rules import asked_priority, deadline_of

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
        (RESPONSES, {"input": "a"}, None),
        (RESPONSES, {"input": "a", "include": ["message.output_text.logprobs"]}, 0),
        (RESPONSES, {"input": "a", "top_logprobs": 3}, 3),
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
    assert stored_body(parse_request(COMPLETIONS, {"prompt": "a", "seed": 1, **off})) == {
        "prompt": "a",
        "seed": 1,
        "max_tokens": 16,
    }
    parse_request(CHAT, {"messages": USER, "echo": False, **off})


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"prompt": ""}, "empty_prompt", "prompt"),
        ({"prompt": []}, "empty_prompt", "prompt"),
        ({"prompt": [1, -1]}, "invalid_token_id", "prompt[1]"),
        ({"prompt": [True]}, "invalid_token_id", "prompt[0]"),
        ({"prompt": [1.0]}, "invalid_token_id", "prompt[0]"),
        ({"prompt": ["a", [1]]}, "invalid_value", "prompt[1]"),
        ({"prompt": ["a", ""]}, "empty_prompt", "prompt[1]"),
        ({"prompt": [[1], []]}, "empty_prompt", "prompt[1]"),
        ({"prompt": [[1], [2, -1]]}, "invalid_token_id", "prompt[1][1]"),
        ({"prompt": [[1], [2, True]]}, "invalid_token_id", "prompt[1][1]"),
        ({"prompt": ["a"] * 2049}, "invalid_value", "prompt"),
        ({"prompt": ["a"] * 1025, "n": 2}, "invalid_value", "prompt"),
        ({"prompt": ["a"] * 1025, "best_of": 2}, "invalid_value", "prompt"),
        ({"service_tier": "slow"}, "invalid_value", "service_tier"),
        ({"max_attempts": 0}, "invalid_value", "max_attempts"),
        ({"on_timeout": "wait"}, "invalid_value", "on_timeout"),
        ({"deadline_at": 5}, "invalid_deadline", "deadline_at"),
        ({"deadline_at": "soon"}, "invalid_deadline", "deadline_at"),
        ({"deadline_at": "2026-12-31T23:59:59"}, "invalid_deadline", "deadline_at"),
        ({"deadline_at": "9999-12-31T23:59:59Z"}, "invalid_deadline", "deadline_at"),
        ({"deadline_at": 1e300}, "invalid_deadline", "deadline_at"),
        ({"deadline_at": True}, "invalid_deadline", "deadline_at"),
        ({"deadline_at": time.time() + 60, "ttl": 60}, "invalid_deadline", "deadline_at"),
        ({"stream_options": {"include_usage": True}}, "invalid_value", "stream_options"),
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
        ({"stream": 0}, "invalid_value", "stream"),
        ({"stream": True, "best_of": 2}, "invalid_value", "best_of"),
        ({"stream": True, "use_beam_search": True}, "invalid_value", "use_beam_search"),
        ({"idempotency_key": "k"}, "unsupported_parameter", "idempotency_key"),
        ({"chat_template": "{{ 1 }}"}, "unsupported_parameter", "chat_template"),
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
        (["hi"], "invalid_messages"),
        ([{"role": "user", "content": 5}], "invalid_messages"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "unsupported_content"),
        ([{"role": "user", "content": [{"type": "text"}]}], "unsupported_content"),
        ([{"role": "tool", "content": "a", "tool_call_id": "b"}], "unsupported_content"),
        ([{"role": "assistant", "content": None, "tool_calls": [{}]}], "unsupported_content"),
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


@pytest.mark.parametrize("prompt", [["a", "b"], [[1, 2], [3]], ["a"] * 2048])
def test_several_prompts_are_stored_as_given(prompt: list[Any]) -> None:
    body = stored_body(parse_request(COMPLETIONS, {"prompt": prompt}))
    assert read_stored(COMPLETIONS, body)["prompt"] == prompt


def test_parts_of_text_are_one_text_and_null_is_absent() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "user", "content": parts, "name": None},
        {"role": "assistant", "content": "c", "refusal": None},
    ]
    assert stored_body(parse_request(CHAT, {"messages": messages}))["messages"] == [
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "c"},
    ]


def test_stream_is_kept_for_the_worker_and_the_connections_fields_are_not() -> None:
    asked = {"prompt": "a", "stream": True, "background": True, "idempotency_key": "k", "on_timeout": "background"}
    options = {"stream_options": {"include_usage": True}}
    body = stored_body(parse_body(COMPLETIONS, asked | options))
    assert body.keys() == {"prompt", "stream", "stream_options", "max_tokens", "seed"}


@pytest.mark.parametrize(
    ("fields", "priority"),
    [
        ({}, None),
        ({"service_tier": "auto"}, None),
        ({"service_tier": "flex"}, 2),
        ({"service_tier": "priority"}, 8),
        ({"service_tier": "fast"}, 8),
        ({"service_tier": "flex", "priority": 9}, 9),
    ],
)
def test_tier_is_a_priority_unless_one_is_given(fields: dict[str, Any], priority: int | None) -> None:
    assert asked_priority(parse_request(COMPLETIONS, {"prompt": "a"} | fields)) == priority


def test_deadline_is_a_moment_or_a_time_to_live() -> None:
    now = datetime.now(UTC)
    soon = now.replace(microsecond=0) + timedelta(hours=1)
    asked: list[dict[str, Any]] = [
        {"deadline_at": soon.timestamp()},
        {"deadline_at": soon.isoformat()},
        {"ttl": 60},
        {},
    ]
    found = [deadline_of(parse_request(COMPLETIONS, {"prompt": "a"} | fields), now) for fields in asked]
    assert found == [soon, soon, now + timedelta(seconds=60), None]


def test_response_is_a_conversation() -> None:
    body = stored_body(parse_request(RESPONSES, {"input": "hi", "instructions": "be brief", "max_output_tokens": 5}))
    values = read_stored(RESPONSES, body)
    assert values["max_tokens"] == 5
    assert chat_messages(RESPONSES, values) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
    ]


def test_output_of_a_response_may_be_sent_back() -> None:
    part = {"type": "output_text", "text": "hello", "annotations": [], "logprobs": []}
    output = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    asked = [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        output,
        {"role": "user", "content": "x"},
    ]
    values = read_stored(RESPONSES, stored_body(parse_request(RESPONSES, {"input": asked})))
    messages = chat_messages(RESPONSES, values)
    assert messages is not None
    assert [message["content"] for message in messages] == ["hi", "hello", "x"]


def test_a_chat_is_its_messages_and_a_completion_has_none() -> None:
    assert chat_messages(CHAT, read_stored(CHAT, stored_body(parse_request(CHAT, {"messages": USER})))) == USER
    assert chat_messages(COMPLETIONS, {"prompt": "a"}) is None


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"input": ""}, "empty_prompt", "input"),
        ({"input": []}, "invalid_messages", "input"),
        ({"input": 5}, "invalid_messages", "input"),
        ({"input": None}, "missing_required_parameter", "input"),
        ({"input": [{"type": "function_call_output"}]}, "unsupported_content", "input[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "unsupported_content",
            "input[0]",
        ),
        ({"input": [{"role": "alien", "content": "a"}]}, "invalid_messages", "input.0.role"),
        ({"tools": [{"type": "web_search"}]}, "unsupported_parameter", "tools"),
        ({"tool_choice": "required"}, "unsupported_parameter", "tool_choice"),
        ({"previous_response_id": "resp_1"}, "unsupported_parameter", "previous_response_id"),
        ({"reasoning": {"effort": "high"}}, "unsupported_parameter", "reasoning"),
        ({"text": {"format": {"type": "json_object"}}}, "unsupported_parameter", "text"),
        ({"truncation": "auto"}, "unsupported_parameter", "truncation"),
        ({"include": ["reasoning.encrypted_content"]}, "unsupported_parameter", "include"),
        ({"n": 2}, "unsupported_parameter", "n"),
        ({"top_logprobs": 21}, "invalid_value", "top_logprobs"),
        ({"max_output_tokens": "8"}, "invalid_value", "max_output_tokens"),
        ({"messages": USER}, "unknown_parameter", "messages"),
    ],
)
def test_bad_field_of_a_response_is_named(fields: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request(RESPONSES, {"input": "a"} | fields)
    assert (caught.value.error_code, caught.value.param) == (code, param)


def test_known_fields_are_told_from_unknown_ones() -> None:
    known, unknown = known_fields(COMPLETIONS, {"prompt": "a", "tools": [], "temprature": 1})
    assert (known, unknown) == ({"prompt": "a", "tools": []}, ["temprature"])
