"""The one schema of a generation request. HTTP bodies, batch lines and inline Celery tasks are all checked here.

Field names and ranges are OpenAI's; those beyond it are spelled as vLLM spells them.
"""

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from models.errors import RequestError

ENDPOINTS = ("/v1/completions", "/v1/chat/completions")
DEFAULT_MAX_TOKENS = 16  # OpenAI's default for /v1/completions; chat runs to the end of the context
DEFAULT_PRIORITY = 4
MAX_LOGPROBS = 20
MAX_STOPS = 4
MAX_STOP_CHARS = 256
MAX_SEED = 2**63 - 1

# Known fields whose other values wait for a later release, with the values that mean "off".
UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "stream": (False,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "prompt_logprobs": (),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "early_stopping": (False,),
    "context_overflow": ("error",),
    "webhook": (),
    "suffix": (),
    "stream_options": (),
    "tools": ([],),
    "tool_choice": ("none",),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
}
STOP_ERROR = f"stop must be one to {MAX_STOPS} non-empty strings of at most {MAX_STOP_CHARS} characters"

Text = Annotated[str, Field(min_length=1)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]


class Message(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str
    name: str | None = None


class GenerationRequest(BaseModel):
    """What every endpoint shares. Strict: "8", 8.5 and true are not integers; an unknown field is an error."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    model: Annotated[str, Field(max_length=255)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1.0
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] = 0
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    stop: list[str] = []
    stop_token_ids: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=8)] = []
    ignore_eos: bool = False
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] = 0
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    add_special_tokens: bool = True
    return_token_ids: bool = False
    background: bool = False
    priority: Annotated[int, Field(ge=0, le=9)] | None = None
    ttl: Annotated[int, Field(ge=1, le=30 * 24 * 3600)] | None = None
    metadata: dict[str, str] = {}
    user: Annotated[str, Field(max_length=255)] | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _stop_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("stop")
    @classmethod
    def _stop_is_short(cls, value: list[str]) -> list[str]:
        if len(value) > MAX_STOPS or any(not 0 < len(stop) <= MAX_STOP_CHARS for stop in value):
            raise ValueError(STOP_ERROR)
        return value

    @field_validator("metadata")
    @classmethod
    def _metadata_is_small(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) > 16 or any(len(key) > 64 or len(text) > 512 for key, text in value.items()):
            raise ValueError("metadata holds at most 16 pairs, keys of 64 and values of 512 characters")
        return value


class CompletionRequest(GenerationRequest):
    """The body of POST /v1/completions."""

    prompt: Text | TokenIds
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_prompt(cls, value: object) -> object:
        """A list that holds one prompt is that prompt."""
        if isinstance(value, list) and value and isinstance(value[0], str | list):
            if len(value) > 1:
                raise RequestError(
                    "unsupported_parameter",
                    f"prompt holds {len(value)} prompts; send each as a job of its own",
                    param="prompt",
                )
            return value[0]
        return value


class ChatRequest(GenerationRequest):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=2048)]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> "ChatRequest":
        if self.max_completion_tokens is not None:
            self.max_tokens = self.max_completion_tokens
        return self


SCHEMAS: dict[str, type[CompletionRequest] | type[ChatRequest]] = {
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatRequest,
}


_DEFAULTS: dict[str, dict[str, Any]] = {
    endpoint: {name: None if field.is_required() else field.default for name, field in schema.model_fields.items()}
    for endpoint, schema in SCHEMAS.items()
}


def parse_request(endpoint: str, body: object) -> CompletionRequest | ChatRequest:
    """Check a decoded JSON body; null counts as absent. A missing seed is drawn, so that a retry repeats the answer.

    Raises RequestError, whose message names the field and the limit and never the value.
    """
    if not isinstance(body, Mapping):
        raise RequestError("invalid_json", "the request body must be a JSON object")
    if endpoint not in SCHEMAS:
        raise RequestError("invalid_endpoint", f"endpoint must be one of {', '.join(ENDPOINTS)}", param="url")
    given = {name: value for name, value in body.items() if value is not None}
    _refuse_surrogates(given)
    _refuse_unsupported(given)
    try:
        request = SCHEMAS[endpoint].model_validate(given)
    except ValidationError as error:
        raise _first_error(error) from None
    if request.seed is None:
        request.seed = secrets.randbits(63)
    if request.max_tokens is None and isinstance(request, CompletionRequest):
        request.max_tokens = DEFAULT_MAX_TOKENS
    return request


def stored_body(request: CompletionRequest | ChatRequest) -> dict[str, Any]:
    """The request as its payload row keeps it: defaults left out, the seed always there."""
    return request.model_dump(exclude_defaults=True, exclude={"background"}) | {"seed": request.seed}


def read_stored(endpoint: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Every field of what stored_body wrote, defaults filled in. It was checked before it was stored: checking it again
    took a quarter of the worker's time for a no-op job.

    Raises RequestError for a field this version does not know, as a newer one may have stored it.
    """
    values = {**_DEFAULTS[endpoint], **body}
    if len(values) > len(_DEFAULTS[endpoint]):
        unknown = min(values.keys() - _DEFAULTS[endpoint].keys())
        raise RequestError("unknown_parameter", f"{unknown} is not known to this worker", param=unknown)
    return values


def num_top_logprobs(values: Mapping[str, Any]) -> int | None:
    """How many alternatives to report per token; None: no logprobs in the answer. `values` are read_stored's."""
    wanted: int | None = values["logprobs"]  # in a chat true or false, and top_logprobs says how many
    if "messages" in values:
        wanted = (values["top_logprobs"] or 0) if wanted else None
    return wanted


def _refuse_unsupported(given: dict[str, Any]) -> None:
    """Drop known fields that are off; any other value is an error, since ignoring it would change the answer."""
    for name in [name for name in given if name in UNSUPPORTED]:
        value = given.pop(name)
        if not any(value == off and isinstance(value, bool) == isinstance(off, bool) for off in UNSUPPORTED[name]):
            raise RequestError("unsupported_parameter", f"{name} is not supported yet", param=name)


def _refuse_surrogates(body: Mapping[str, object]) -> None:
    """Half of a surrogate pair cannot be written as UTF-8; found here it costs an answer, later a worker."""
    for name, value in body.items():
        try:
            f"{name}{value}".encode()
        except UnicodeEncodeError:
            raise RequestError("invalid_unicode", "the text is not valid Unicode", param="body") from None


_CODES = {
    "stop": "invalid_stop",
    "messages": "invalid_messages",
    "metadata": "invalid_metadata",
}


def _first_error(error: ValidationError) -> RequestError:
    """Turn pydantic's first complaint into ours: a stable code, the field, the limit."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = str(first["loc"][0]) if first["loc"] else None
    param = ".".join(str(part)[:64] for part in first["loc"]) or None
    if first["type"] == "extra_forbidden":
        return RequestError("unknown_parameter", f"{param} is not a known parameter", param=param)
    if first["type"] == "missing":
        return RequestError("missing_required_parameter", f"{param} is required", param=param)
    if field == "prompt":
        return _prompt_error(error)
    message = first["msg"].removeprefix("Value error, ")
    message = message if message.startswith(str(field)) else f"{param}: {message}"
    return RequestError(_CODES.get(str(field), "invalid_value"), message, param=param)


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
