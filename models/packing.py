"""How values become column values: number lists as packed binary, bodies as JSON text, text without NUL."""

import json
import math
import sys
from array import array
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import orjson

_Number = TypeVar("_Number", int, float)

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def pack_token_ids(token_ids: Iterable[int]) -> bytes:
    """Pack token ids as little-endian int32."""
    return _little_endian(array("i", token_ids)).tobytes()


def unpack_token_ids(packed: bytes) -> tuple[int, ...]:
    """Read what pack_token_ids wrote."""
    values = array("i")
    values.frombytes(packed)
    return tuple(_little_endian(values))


def pack_logprobs(logprobs: Iterable[float | None]) -> bytes:
    """Pack logprobs as little-endian float32; None (a first token has none) becomes NaN."""
    values = array("f", [math.nan if value is None else value for value in logprobs])
    return _little_endian(values).tobytes()


def unpack_logprobs(packed: bytes) -> tuple[float | None, ...]:
    """Read what pack_logprobs wrote."""
    values = array("f")
    values.frombytes(packed)
    values = _little_endian(values)
    if not math.isnan(sum(values)):  # most have no None, and this is twice as quick
        return tuple(values)
    return tuple(None if math.isnan(value) else value for value in values)


def dump_json(value: Mapping[str, Any] | list[Any]) -> str:
    """Write JSON text for a text column: NUL and half surrogate pairs stay escaped, so any database takes it.

    A number that is not finite becomes null, as JSON has no word for it.
    """
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # a huge integer or half a surrogate pair, in the body of a refused line
        return json.dumps(value, separators=(",", ":"))


def load_json(text: str) -> Any:  # noqa: ANN401 - JSON is any value
    """Read what dump_json wrote."""
    try:
        return orjson.loads(text)
    except ValueError:
        return json.loads(text)


def clean_text(text: str) -> str:
    """Make text storable: PostgreSQL refuses NUL, and half a surrogate pair has no UTF-8."""
    text = text.replace("\0", REPLACEMENT)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def clean_optional(text: str | None) -> str | None:
    """clean_text, passing None on."""
    return None if text is None else clean_text(text)


def _little_endian(values: "array[_Number]") -> "array[_Number]":
    if sys.byteorder == "big":
        values.byteswap()
    return values
