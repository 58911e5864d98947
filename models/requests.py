"""From a decoded body to a checked request, to what is stored of it, and back.

HTTP bodies, batch lines and inline Celery tasks are all checked here; the fields are generation.py's.
"""

import secrets
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from models.errors import RequestError
from models.generation import ChatRequest, CompletionRequest, check_together
from models.refusals import UNSUPPORTED, UNSUPPORTED_IN_CHAT, first_error, refuse_surrogates, refuse_unsupported

ENDPOINTS = ("/v1/completions", "/v1/chat/completions")
DEFAULT_MAX_TOKENS = 16  # OpenAI's default for /v1/completions; chat runs to the end of the context
DEFAULT_PRIORITY = 4

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
    schema = SCHEMAS[endpoint]
    given = {name: value for name, value in body.items() if value is not None}
    refuse_surrogates(given)
    refuse_unsupported(given, UNSUPPORTED_IN_CHAT if schema is ChatRequest else UNSUPPORTED)
    try:
        request = schema.model_validate(given)
    except ValidationError as error:
        raise first_error(error) from None
    check_together(request)
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
