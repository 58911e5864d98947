"""Strict JSON: what one reader would take and another read otherwise is refused, and no key is there twice."""

import json
from collections.abc import Mapping
from typing import Any

import orjson

from models.errors import RequestError

DUPLICATE_KEY = "a key is there twice in the same object"


def parse(raw: bytes) -> object:
    """Decode; NaN, half a surrogate pair, bottomless nesting, endless integers and repeated keys are not JSON here.

    Raises RequestError: invalid_json, invalid_unicode or duplicate_key.
    """
    try:
        value: object = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if "surrogate" in error.msg and "UTF-8" not in error.msg:
            raise RequestError("invalid_unicode", "the text holds half of a surrogate pair") from None
        raise RequestError("invalid_json", f"this is not valid JSON: {error.msg}") from None
    # orjson keeps the last of equal keys and says nothing. Each pair in the text has a colon, so when the text has no
    # more of them than what was read, nothing was dropped; else, or where colons may be escaped, a slow reader looks.
    try:
        if b"\\u003" in raw or raw.count(b":") != _num_colons(value):
            json.loads(raw, object_pairs_hook=_unique)
    except RecursionError:  # both stop before orjson does, at a thousand levels
        raise RequestError("invalid_json", "the JSON is nested too deeply") from None
    return value


def _num_colons(value: object) -> int:
    """How many colons the JSON text of a value has, if it has no escaped ones. Elements of a list of numbers have none,
    and prompts are long lists of them: nobody takes a list that begins with a number and holds objects."""
    if isinstance(value, str):
        return value.count(":")
    if isinstance(value, dict):
        return sum(1 + key.count(":") + _num_colons(entry) for key, entry in value.items())
    if isinstance(value, list) and value and not isinstance(value[0], int | float):
        return sum(map(_num_colons, value))
    return 0


def _unique(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise RequestError("duplicate_key", DUPLICATE_KEY)
    return found
