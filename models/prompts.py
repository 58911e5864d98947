"""What a request is about: a prompt, several, or a conversation. Their forms, limits and codes of refusal.

Written by hand where pydantic would list a complaint for each of a million elements.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError

from models.errors import RequestError

MAX_PROMPTS = 2048  # of a list in one request
MAX_MESSAGES = 2048
MAX_TOKEN_ID = 2**31 - 1

TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
Text = Annotated[str, Field(min_length=1)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
Prompts = Annotated[list[Text] | list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]

_TOKEN_IDS: TypeAdapter[list[int]] = TypeAdapter(
    Annotated[list[TokenId], Field(fail_fast=True)], config=ConfigDict(strict=True, hide_input_in_errors=True)
)
_UNSUPPORTED_IN_MESSAGES = ("tool_calls", "tool_call_id", "function_call", "audio")
_TEXT_PARTS = ("text", "input_text", "output_text")


def check_prompt(value: object) -> object:
    """Text, token ids, or a list of either. A list that holds one prompt is that prompt."""
    if not isinstance(value, list) or not value or _is_token_id(value[0]):
        return _one_prompt(value, "prompt")
    if len(value) > MAX_PROMPTS:
        raise RequestError("invalid_value", f"prompt may hold at most {MAX_PROMPTS} prompts", param="prompt")
    kind = type(value[0])
    prompts = [_element(prompt, kind, f"prompt[{index}]") for index, prompt in enumerate(value)]
    return prompts[0] if len(prompts) == 1 else prompts


def _element(value: object, kind: type, where: str) -> object:
    """One of several prompts, which are all texts or all lists of token ids."""
    if not isinstance(value, str | list):
        raise RequestError("invalid_token_id", f"{where} must be a token id, an integer from 0", param=where)
    if type(value) is not kind:
        raise RequestError("invalid_value", "prompt must hold texts or lists of token ids, not both", param=where)
    return _one_prompt(value, where)


def _one_prompt(value: object, where: str) -> object:
    if not isinstance(value, str | list):
        raise RequestError("invalid_value", f"{where} must be a string or a list of token ids", param=where)
    if not value:
        raise RequestError("empty_prompt", f"{where} must not be empty", param=where)
    if isinstance(value, list):
        try:
            _TOKEN_IDS.validate_python(value)
        except ValidationError as error:
            at = f"{where}[{error.errors(include_url=False, include_input=False)[0]['loc'][0]}]"
            message = f"{at} must be a token id, an integer from 0 to {MAX_TOKEN_ID}"
            raise RequestError("invalid_token_id", message, param=at) from None
    return value


def _is_token_id(value: object) -> bool:
    """Whether a list that begins with it is meant to be token ids; which of its elements are none is said later."""
    return not isinstance(value, str | list)


Prompt = Annotated[Any, PlainValidator(check_prompt, json_schema_input_type=Text | TokenIds | Prompts)]


class Message(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str
    name: str | None = None


def check_messages(value: object) -> object:
    """Messages with their text as one string; pydantic checks what comes out."""
    return _each_plain(value, "messages")


def check_input(value: object) -> object:
    """The input of a response: a text becomes a message. What a response put out may be sent back as it came."""
    if isinstance(value, str):
        if not value:
            raise RequestError("empty_prompt", "input must not be empty", param="input")
        return [{"role": "user", "content": value}]
    if isinstance(value, list):
        value = [_message_of_item(item, f"input[{index}]") for index, item in enumerate(value)]
    return _each_plain(value, "input")


def _message_of_item(item: object, where: str) -> object:
    """An item without what only tells it apart from others."""
    if not isinstance(item, Mapping):
        return item
    if item.get("type", "message") != "message":
        raise RequestError("unsupported_content", f"{where} must be a message; only text is supported", param=where)
    return {name: value for name, value in item.items() if name not in ("type", "id", "status", "phase")}


def _each_plain(value: object, field: str) -> object:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_MESSAGES:
        raise RequestError("invalid_messages", f"{field} must hold 1 to {MAX_MESSAGES} messages", param=field)
    return [_plain(message, f"{field}[{index}]") for index, message in enumerate(value)]


def _plain(message: object, where: str) -> object:
    """One message, null counting as absent and parts of text as text."""
    if not isinstance(message, Mapping):
        raise RequestError("invalid_messages", f"{where} must be an object", param=where)
    given = {name: value for name, value in message.items() if value is not None}
    for name in _UNSUPPORTED_IN_MESSAGES:
        if given.pop(name, []) != []:
            raise RequestError("unsupported_content", f"{where}.{name} is not supported; send text", param=where)
    if given.get("role") in ("tool", "function"):
        raise RequestError("unsupported_content", f"{where}: tools are not supported yet", param=where)
    if isinstance(given.get("content"), list):
        given["content"] = "\n".join(_text_of(part, where) for part in given["content"])
    return given


def _text_of(part: object, where: str) -> str:
    if not isinstance(part, Mapping) or part.get("type") not in _TEXT_PARTS or not isinstance(part.get("text"), str):
        raise RequestError("unsupported_content", f"{where}: only parts of text are supported", param=where)
    return str(part["text"])


_Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
Messages = Annotated[_Messages, BeforeValidator(check_messages)]
ResponseInput = Annotated[_Messages, BeforeValidator(check_input, json_schema_input_type=Text | _Messages)]
