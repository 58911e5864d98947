"""What a request is refused for before and by its schema: a stable code, the field, the limit, never the value."""

from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import ValidationError

from models.errors import RequestError
from models.generation import LOGIT_BIAS_ERROR

# Known fields whose other values wait for a later release, with the values that mean "off".
UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "webhook": (),
    "suffix": (),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "web_search_options": (),
    "chat_template": (),
}
UNSUPPORTED_IN_RESPONSES: dict[str, tuple[object, ...]] = {
    "webhook": (),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "max_tool_calls": (),
    "text": ({"format": {"type": "text"}}, {}),
    "reasoning": ({}, {"effort": "none"}),
    "previous_response_id": (),
    "conversation": (),
    "prompt": (),
    "structured_outputs": (),
}

_CODES = {
    "stop": "invalid_stop",
    "messages": "invalid_messages",
    "input": "invalid_messages",
    "deadline_at": "invalid_deadline",
    "completion_window": "invalid_completion_window",
    "endpoint": "invalid_endpoint",
    "metadata": "invalid_metadata",
    "logit_bias": "invalid_logit_bias",
}
_MESSAGES = {  # where pydantic's complaint is about a part that the client does not know
    "logit_bias": LOGIT_BIAS_ERROR,
    "early_stopping": 'early_stopping must be true, false or "never"',
    "deadline_at": "deadline_at must be seconds since 1970, or a time as 2026-12-31T23:59:59Z",
}


def refuse_surrogates(body: Mapping[str, object]) -> None:
    """Half of a surrogate pair cannot be written as UTF-8; found here it costs an answer, later a worker."""
    try:
        orjson.dumps(body)
    except TypeError:  # it has another reason too: an integer that is no 64 bits long
        for name, value in body.items():
            try:
                f"{name}{value}".encode()
            except UnicodeEncodeError:
                raise RequestError("invalid_unicode", "the text is not valid Unicode", param="body") from None


def refuse_unsupported(given: dict[str, Any], unsupported: Mapping[str, tuple[object, ...]]) -> None:
    """Drop known fields that are off; any other value is an error, since ignoring it would change the answer."""
    for name in [name for name in given if name in unsupported]:
        value = given.pop(name)
        if not any(value == off and isinstance(value, bool) == isinstance(off, bool) for off in unsupported[name]):
            raise RequestError("unsupported_parameter", f"{name} is not supported yet", param=name)


def first_error(error: ValidationError) -> RequestError:
    """Turn pydantic's first complaint into ours."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = str(first["loc"][0]) if first["loc"] else None
    param = ".".join(str(part)[:64] for part in first["loc"]) or None
    if first["type"] == "extra_forbidden":
        return RequestError("unknown_parameter", f"{param} is not a known parameter", param=param)
    if first["type"] == "missing":
        return RequestError("missing_required_parameter", f"{param} is required", param=param)
    code = _CODES.get(str(field), "invalid_value")
    if field in _MESSAGES:
        return RequestError(code, _MESSAGES[field], param=field)
    message = first["msg"].removeprefix("Value error, ")
    message = message if message.startswith(str(field)) else f"{param}: {message}"
    return RequestError(code, message, param=param)
