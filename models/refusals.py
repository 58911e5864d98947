"""What a request is refused for before and by its schema: a stable code, the field, the limit, never the value."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from models.errors import RequestError
from models.generation import LOGIT_BIAS_ERROR

# Known fields whose other values wait for a later release, with the values that mean "off".
UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "stream": (False,),
    "webhook": (),
    "suffix": (),
    "stream_options": (),
    "tools": ([],),
    "tool_choice": ("none",),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
}
# A chat's prompt is what the template makes of it; nobody wants that back as the answer's beginning.
UNSUPPORTED_IN_CHAT = UNSUPPORTED | {"echo": (False,)}

_CODES = {
    "stop": "invalid_stop",
    "messages": "invalid_messages",
    "metadata": "invalid_metadata",
    "logit_bias": "invalid_logit_bias",
}
_MESSAGES = {  # where pydantic's complaint is about a part that the client does not know
    "logit_bias": LOGIT_BIAS_ERROR,
    "early_stopping": 'early_stopping must be true, false or "never"',
}


def refuse_surrogates(body: Mapping[str, object]) -> None:
    """Half of a surrogate pair cannot be written as UTF-8; found here it costs an answer, later a worker."""
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
    if field == "prompt":
        return _prompt_error(error)
    code = _CODES.get(str(field), "invalid_value")
    if field in _MESSAGES:
        return RequestError(code, _MESSAGES[field], param=field)
    message = first["msg"].removeprefix("Value error, ")
    message = message if message.startswith(str(field)) else f"{param}: {message}"
    return RequestError(code, message, param=param)


def _prompt_error(error: ValidationError) -> RequestError:
    """A prompt is text or token ids; say which of the two went wrong."""
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    kinds = {entry["type"] for entry in errors if entry["loc"][0] == "prompt"}
    if "string_too_short" in kinds or "too_short" in kinds:
        return RequestError("empty_prompt", "prompt must not be empty", param="prompt")
    for entry in errors:
        if entry["loc"][0] == "prompt" and isinstance(entry["loc"][-1], int):
            where = f"prompt[{entry['loc'][-1]}]"
            return RequestError("invalid_token_id", f"{where} must be a token id, an integer from 0", param=where)
    return RequestError("invalid_value", "prompt must be a string or a list of token ids", param="prompt")
