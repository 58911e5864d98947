"""Lists as OpenAI has them: a page at a time, the next one asked for by the last entry's id."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from models.errors import RequestError

DEFAULT_LIMIT, MAX_LIMIT = 20, 100
MAX_PAIRS = 16  # of metadata in a filter, as in what is filtered
_FILTER = "metadata["
_METADATA = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)  # brackets within a key are the key's


def page_limit(text: str | None, *, default: int = DEFAULT_LIMIT, most: int = MAX_LIMIT) -> int:
    """How many entries a page shall have. Raises RequestError."""
    if text is None:
        return default
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
    if not 1 <= number <= most:
        raise RequestError("invalid_limit", f"limit must be a whole number from 1 to {most}", param="limit")
    return number


def metadata_filter(query: Mapping[str, str]) -> dict[str, str]:
    """The pairs that entries must have, from a query such as ?metadata[team]=search.

    Raises RequestError for a filter that cannot be read: without it the list would hold what was not asked for.
    """
    wanted = {}
    for name, value in query.items():
        if name.startswith(_FILTER):
            match = _METADATA.fullmatch(name)
            if match is None:
                message = "metadata filters read metadata[key]=value, with a key of 1 to 64 characters"
                raise RequestError("invalid_metadata", message, param="metadata")
            wanted[match[1]] = value
    if len(wanted) > MAX_PAIRS:
        raise RequestError("invalid_metadata", f"metadata can filter by {MAX_PAIRS} pairs at most", param="metadata")
    return wanted


def list_body(entries: Sequence[Mapping[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page."""
    return {
        "object": "list",
        "data": list(entries),
        "first_id": entries[0]["id"] if entries else None,
        "last_id": entries[-1]["id"] if entries else None,
        "has_more": has_more,
    }
