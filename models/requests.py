"""From a decoded body to a checked request, to what is stored of it, and back.

HTTP bodies, batch lines and inline Celery tasks are all checked here; the fields are generation.py's.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from models.errors import RequestError
from models.generation import ChatRequest, CompletionRequest
from models.randomness import random_bits
from models.refusals import UNSUPPORTED, UNSUPPORTED_IN_RESPONSES, first_error, refuse_surrogates, refuse_unsupported
from models.response_request import LOGPROBS, ResponseRequest
from models.rules import AnyRequest, check_together

COMPLETIONS, CHAT, RESPONSES = ENDPOINTS = ("/v1/completions", "/v1/chat/completions", "/v1/responses")
DEFAULT_MAX_TOKENS = 16  # OpenAI's default for /v1/completions; chat runs to the end of the context
DEFAULT_PRIORITY = 4

SCHEMAS: dict[str, type[AnyRequest]] = {
    COMPLETIONS: CompletionRequest,
    CHAT: ChatRequest,
    RESPONSES: ResponseRequest,
}
# What is between the client and the service that answers it; a job knows nothing of it.
OF_THE_CONNECTION = ("background", "on_timeout", "idempotency_key")

_DEFAULTS: dict[str, dict[str, Any]] = {
    endpoint: {name: None if field.is_required() else field.default for name, field in schema.model_fields.items()}
    for endpoint, schema in SCHEMAS.items()
}


def parse_request(endpoint: str, body: object) -> AnyRequest:
    """Check the body of a batch line or a Celery task, which nobody waits for on a connection; as parse_body."""
    request = parse_body(endpoint, body)
    for name in ("stream", "idempotency_key"):
        if getattr(request, name):
            raise RequestError("unsupported_parameter", f"{name} is for requests over HTTP alone", param=name)
    return request


def parse_body(endpoint: str, body: object) -> AnyRequest:
    """Check a decoded JSON body; null counts as absent. A missing seed is drawn, so that a retry repeats the answer.

    Raises RequestError, whose message names the field and the limit and never the value.
    """
    if not isinstance(body, Mapping):
        raise RequestError("invalid_json", "the request body must be a JSON object")
    if endpoint not in SCHEMAS:
        raise RequestError("invalid_endpoint", f"endpoint must be one of {', '.join(ENDPOINTS)}", param="url")
    given = {name: value for name, value in body.items() if value is not None}
    refuse_surrogates(given)
    refuse_unsupported(given, UNSUPPORTED_IN_RESPONSES if endpoint == RESPONSES else UNSUPPORTED)
    try:
        request = SCHEMAS[endpoint].model_validate(given)
    except ValidationError as error:
        raise first_error(error) from None
    check_together(request)
    if request.seed is None:
        request.seed = random_bits(63)
    if request.max_tokens is None and isinstance(request, CompletionRequest):
        request.max_tokens = DEFAULT_MAX_TOKENS
    return request


def known_fields(endpoint: str, body: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A body without the fields that nobody here knows, and the names of those."""
    known = _DEFAULTS[endpoint].keys() | (UNSUPPORTED_IN_RESPONSES if endpoint == RESPONSES else UNSUPPORTED).keys()
    return {name: body[name] for name in body if name in known}, [name for name in body if name not in known]


def stored_body(request: AnyRequest) -> dict[str, Any]:
    """The request as its payload row keeps it: defaults left out, the seed always there."""
    return request.model_dump(exclude_defaults=True, exclude={*OF_THE_CONNECTION}) | {"seed": request.seed}


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


def chat_messages(endpoint: str, values: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The conversation that a chat or a response goes on; None where the prompt is a prompt."""
    if endpoint == CHAT:
        return [dict(message) for message in values["messages"]]
    if endpoint == COMPLETIONS:
        return None
    messages = [dict(message) for message in values["input"]]
    if values.get("instructions") is not None:
        messages.insert(0, {"role": "system", "content": values["instructions"]})
    return messages


def num_top_logprobs(values: Mapping[str, Any]) -> int | None:
    """How many alternatives to report per token; None: no logprobs in the answer. `values` are read_stored's."""
    if "input" in values:
        asked = LOGPROBS in values["include"] or values["top_logprobs"] is not None
        return (values["top_logprobs"] or 0) if asked else None
    wanted: int | None = values["logprobs"]  # in a chat true or false, and top_logprobs says how many
    if "messages" in values:
        wanted = (values["top_logprobs"] or 0) if wanted else None
    return wanted
