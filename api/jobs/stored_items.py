"""What a stored request said, message by message: the conversation of a chat, the input of a response."""

from collections.abc import Mapping, Sequence
from typing import Any

from api.paging import list_body
from api.rendering.bodies import Json, job_public_id
from models.errors import InputExpired, RequestError
from models.ids import public_id
from models.records import JobRecord
from models.requests import RESPONSES, chat_messages, read_stored


def items_page(items: Sequence[Json], *, after: str | None, limit: int, is_descending: bool) -> Json:
    """A page of a list that is all there. Raises RequestError `invalid_cursor`."""
    ordered = list(reversed(items)) if is_descending else list(items)
    start = 0 if after is None else 1 + _index(ordered, after)
    page = ordered[start : start + limit]
    return list_body(page, has_more=start + limit < len(ordered))


def chat_items(job: JobRecord) -> list[Json]:
    """The messages that a chat completion answered, each with an id of its own."""
    first = job_public_id(job)
    return [
        {"content_parts": None, **message, "id": f"{first}-{index}"} for index, message in enumerate(_messages(job))
    ]


def input_items(job: JobRecord) -> list[Json]:
    """The items that a response was given, in the words of its API. Instructions are not among them."""
    first = public_id("message", job.id)
    return [
        {
            "id": f"{first}_{index}",
            "type": "message",
            "role": message["role"],
            "status": "completed",
            "content": [_part(message)],
        }
        for index, message in enumerate(_messages(job))
    ]


def _messages(job: JobRecord) -> list[dict[str, Any]]:
    """The conversation as it was sent; of a response without its instructions, which are a field of it."""
    if job.input_expired:
        raise InputExpired
    values = read_stored(job.endpoint, job.body)
    if job.endpoint == RESPONSES:
        values["instructions"] = None
    return chat_messages(job.endpoint, values) or []


def _part(message: Mapping[str, Any]) -> Json:
    if message["role"] == "assistant":
        return {"type": "output_text", "text": message["content"], "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": message["content"]}


def _index(items: Sequence[Json], id: str) -> int:
    for index, item in enumerate(items):
        if item["id"] == id:
            return index
    raise RequestError("invalid_cursor", "after must be the id of an entry of this list", param="after")
