"""One line of a prompt file to one checked request: OpenAI's batch form or the short form.

A bad line is an answer, not an exception: it carries its error and is stored refused, and the rest goes on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from models.errors import RequestError
from models.requests import ENDPOINTS, known_fields, parse_request, stored_body
from models.rules import asked_priority, deadline_of
from models.strict_json import parse

MAX_CUSTOM_ID_CHARS = 512
BOM = b"\xef\xbb\xbf"

Resolve = Callable[[str | None], str]  # the model that a line's `model` means, or RequestError


@dataclass(frozen=True, slots=True)
class BatchLine:
    """A parsed line. With `error` set, `body` is empty and `model` None; `custom_id` is kept where it could be read."""

    custom_id: str | None
    endpoint: str
    model: str | None
    body: dict[str, Any]
    priority: int | None = None
    deadline: datetime | None = None
    max_attempts: int | None = None
    error: RequestError | None = None


def check_line(raw: bytes, *, endpoint: str, max_bytes: int) -> str:
    """What holds of every line of a batch's input file, or the file is bad as a whole. Returns the custom_id.

    Raises RequestError. The body is not looked at: what is wrong with it is that line's own fault.
    """
    line = _decode(raw, max_bytes)
    custom_id = _checked_id(line.get("custom_id"))
    if line.get("method") != "POST":
        raise RequestError("invalid_method", "method must be POST", param="method")
    if line.get("url") != endpoint:
        raise RequestError("mismatched_endpoint", f"url must be {endpoint}, the batch's endpoint", param="url")
    return custom_id


def parse_line(raw: bytes, *, resolve: Resolve, max_bytes: int, strict: bool = True) -> BatchLine:
    """Read one line without its line break. Not strict, fields of the body that nobody knows are dropped."""
    custom_id: str | None = None
    endpoint = ENDPOINTS[0]
    try:
        line = _decode(raw, max_bytes)
        custom_id = _custom_id(line)
        endpoint, body = _endpoint_and_body(line)
        request = parse_request(endpoint, body if strict else known_fields(endpoint, body)[0])
        model = resolve(request.model)
    except RequestError as error:
        return BatchLine(custom_id, endpoint, None, {}, error=error)
    request.model = model
    return BatchLine(
        custom_id,
        endpoint,
        model,
        stored_body(request),
        priority=asked_priority(request),
        deadline=deadline_of(request, datetime.now(UTC)),
        max_attempts=request.max_attempts,
    )


def _decode(raw: bytes, max_bytes: int) -> dict[str, Any]:
    if len(raw) > max_bytes:
        raise RequestError("line_too_long", f"the line is longer than {max_bytes} bytes")
    line = parse(raw.removeprefix(BOM))
    if not isinstance(line, dict):
        raise RequestError("invalid_json", "the line must be a JSON object")
    return line


def _custom_id(line: dict[str, Any]) -> str | None:
    """OpenAI's form must have one; the short form may."""
    custom_id = line.get("custom_id")
    if custom_id is None and not _is_batch_form(line):
        return None
    return _checked_id(custom_id)


def _checked_id(custom_id: object) -> str:
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
