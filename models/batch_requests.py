"""The body of POST /v1/batches: its fields, their ranges, and the rules between them.

Names and ranges are OpenAI's where it has them; beyond it: any window, a priority, requests inline, attempts.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from models.errors import RequestError
from models.refusals import first_error, refuse_unsupported
from models.requests import DEFAULT_PRIORITY, ENDPOINTS

MAX_INLINE_REQUESTS = 1000
MAX_WINDOW_SECONDS = 30 * 24 * 3600
MAX_ATTEMPTS = 100
MAX_PAIRS, MAX_KEY_CHARS, MAX_VALUE_CHARS = 16, 64, 512  # of metadata
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_WINDOW = re.compile(r"([1-9][0-9]{0,6})([smhd])", re.ASCII)
WINDOW_ERROR = "completion_window must be a whole number and one of s, m, h, d, such as 24h, and at most 30d"
METADATA_ERROR = (
    f"metadata holds at most {MAX_PAIRS} pairs of strings,"
    f" keys of {MAX_KEY_CHARS} and values of {MAX_VALUE_CHARS} characters"
)

# Known fields whose other values wait for a later release, with the values that mean "off".
UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "webhook": (),
    "dedupe": (False,),
    "not_before": (),
    "output_format": ("jsonl",),
}

Metadata = dict[str, str]
Priority = Annotated[int, Field(ge=0, le=9)]
_Request = TypeVar("_Request", bound="_Body")


class OutputExpiry(BaseModel):
    """When the output and error files go."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=30 * 24 * 3600)]


class _Body(BaseModel):
    """What creating a batch and repeating its failed rows share. An unknown field is an error."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    idempotency_key: str | None = None

    @field_validator("completion_window", check_fields=False)
    @classmethod
    def _window_is_readable(cls, value: str) -> str:
        window_seconds(value)
        return value

    @field_validator("metadata", check_fields=False)
    @classmethod
    def _metadata_is_small(cls, value: Metadata) -> Metadata:
        too_long = any(len(key) > MAX_KEY_CHARS or len(text) > MAX_VALUE_CHARS for key, text in value.items())
        if too_long or len(value) > MAX_PAIRS:
            raise RequestError("invalid_metadata", METADATA_ERROR, param="metadata")
        return value


class BatchRequest(_Body):
    """The body of POST /v1/batches. The output is always in input order, so `ordered` changes nothing."""

    input_file_id: str | None = None
    requests: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_INLINE_REQUESTS)] | None = None
    endpoint: str
    completion_window: str
    metadata: Metadata = {}
    output_expires_after: OutputExpiry | None = None
    priority: Priority = DEFAULT_PRIORITY
    max_attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] | None = None
    ordered: bool = True

    @field_validator("endpoint")
    @classmethod
    def _endpoint_is_ours(cls, value: str) -> str:
        if value not in ENDPOINTS:
            raise RequestError("invalid_endpoint", f"endpoint must be one of {', '.join(ENDPOINTS)}", param="endpoint")
        return value


class RetryRequest(_Body):
    """The body of POST /v1/batches/{id}/retry_failed: what shall differ from the batch whose rows failed."""

    completion_window: str | None = None
    metadata: Metadata | None = None
    priority: Priority | None = None


def parse_batch_request(body: object, *, strict: bool = True) -> BatchRequest:
    """Check a decoded JSON body; null counts as absent. Not strict, unknown fields are dropped.

    Raises RequestError, whose message names the field and the limit and never the value.
    """
    request = _validated(BatchRequest, body, strict=strict)
    if (request.input_file_id is None) == (request.requests is None):
        both = request.requests is not None
        raise RequestError(
            "invalid_value" if both else "missing_required_parameter",
            f"give input_file_id, or up to {MAX_INLINE_REQUESTS} requests, not both",
            param="input_file_id",
        )
    return request


def parse_retry_request(body: object, *, strict: bool = True) -> RetryRequest:
    """As parse_batch_request."""
    return _validated(RetryRequest, body, strict=strict)


def _validated(schema: type[_Request], body: object, *, strict: bool) -> _Request:
    if not isinstance(body, Mapping):
        raise RequestError("invalid_json", "the request body must be a JSON object")
    given = {name: value for name, value in body.items() if value is not None}
    refuse_unsupported(given, UNSUPPORTED)
    if not strict:
        given = {name: value for name, value in given.items() if name in schema.model_fields}
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        raise first_error(error) from None


def window_seconds(text: str) -> int:
    """The length of a completion window in seconds. Raises RequestError."""
    match = _WINDOW.fullmatch(text)
    seconds = int(match[1]) * _UNIT_SECONDS[match[2]] if match else 0
    if not 0 < seconds <= MAX_WINDOW_SECONDS:
        raise RequestError("invalid_completion_window", WINDOW_ERROR, param="completion_window")
    return seconds


def window_text(seconds: int) -> str:
    """A window of this length as its submitter may have written it, for one of which only the length is known."""
    unit = next(unit for unit in ("h", "m", "s") if seconds % _UNIT_SECONDS[unit] == 0)
    return f"{seconds // _UNIT_SECONDS[unit]}{unit}"
