"""One line of a prompt file to one checked request: OpenAI's batch form or the short form.

A bad line is an answer, not an exception: it carries its error and is stored refused, and the rest goes on.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from models.errors import RequestError
from models.requests import ENDPOINTS, parse_request, stored_body
from models.rules import AnyRequest, asked_priority, deadline_of

MAX_CUSTOM_ID_CHARS = 512
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class BatchLine:
    """A parsed line. With `error` set, `body` is empty; `custom_id` is kept where it could be read."""

    custom_id: str | None
    endpoint: str
    model: str | None
    body: dict[str, Any]
    priority: int | None = None
    ttl_seconds: int | None = None
    error: RequestError | None = None


def parse_line(raw: bytes, *, models: Collection[str], max_bytes: int) -> BatchLine:
    """Read one line without its line break. `models` are the names a line may give, beside leaving it out."""
    custom_id: str | None = None
    endpoint = ENDPOINTS[0]
    try:
        line = _decode(raw, max_bytes)
        custom_id = _custom_id(line)
        endpoint, body = _endpoint_and_body(line)
        request = parse_request(endpoint, body)
        if request.model is not None and request.model not in models:
            raise RequestError("model_not_found", "the line names another model than this run's", param="model")
    except RequestError as error:
        return BatchLine(custom_id, endpoint, None, {}, error=error)
    return BatchLine(
        custom_id,
        endpoint,
        request.model,
        stored_body(request),
        priority=asked_priority(request),
        ttl_seconds=_life_seconds(request),
    )


def _life_seconds(request: AnyRequest) -> int | None:
    """How long the line's job may take, from when it is read."""
    now = datetime.now(UTC)
    deadline = deadline_of(request, now)
    return None if deadline is None else max(1, round((deadline - now).total_seconds()))


def _decode(raw: bytes, max_bytes: int) -> dict[str, Any]:
    if len(raw) > max_bytes:
        raise RequestError("line_too_long", f"the line is longer than {max_bytes} bytes")
    try:
        line = orjson.loads(raw.removeprefix(BOM))
    except orjson.JSONDecodeError:
        raise RequestError("invalid_json", "the line is not valid JSON in UTF-8") from None
    if not isinstance(line, dict):
        raise RequestError("invalid_json", "the line must be a JSON object")
    return line


def _custom_id(line: dict[str, Any]) -> str | None:
    """OpenAI's form must have one; the short form may."""
    custom_id = line.get("custom_id")
    if custom_id is None and not _is_batch_form(line):
        return None
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID_CHARS or not custom_id.isprintable():
        raise RequestError(
            "invalid_custom_id",
            f"custom_id must be a string of 1 to {MAX_CUSTOM_ID_CHARS} printable characters",
            param="custom_id",
        )
    return custom_id


def _is_batch_form(line: dict[str, Any]) -> bool:
    return not line.keys().isdisjoint({"body", "url", "method"})


def _endpoint_and_body(line: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if not _is_batch_form(line):
        if not line.keys() & {"prompt", "messages"}:
            raise RequestError("missing_required_parameter", "the line needs prompt or messages", param="prompt")
        body = {name: value for name, value in line.items() if name != "custom_id"}
        return ENDPOINTS[1 if "messages" in line else 0], body
    unknown = sorted(line.keys() - {"custom_id", "method", "url", "body"})
    if unknown:
        raise RequestError(
            "unknown_parameter", f"{unknown[0][:64]} is not a field of a batch line", param=unknown[0][:64]
        )
    if line.get("method", "POST") != "POST":
        raise RequestError("invalid_method", "method must be POST", param="method")
    url = line.get("url", ENDPOINTS[0])
    if url not in ENDPOINTS:
        raise RequestError("invalid_endpoint", f"url must be one of {', '.join(ENDPOINTS)}", param="url")
    inner = line.get("body")
    if not isinstance(inner, dict):
        raise RequestError("missing_required_parameter", "body must be an object", param="body")
    return url, inner
