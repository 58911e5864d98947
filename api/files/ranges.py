"""The Range header: one range of bytes. What cannot be read is ignored, as RFC 9110 14.2 lets a server do."""

import re

from api.errors import RangeNotSatisfiable

_RANGE = re.compile(r"bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*", re.IGNORECASE)


def wants_range(header: str | None) -> bool:
    """Whether the header asks for one range that can be read; several ranges are answered with the whole."""
    match = _RANGE.fullmatch(header or "")
    return match is not None and _is_meant(match[1], match[2])


def cut(header: str | None, num_bytes: int) -> tuple[int, int] | None:
    """The first byte and the one after the last; None for the whole. Raises RangeNotSatisfiable."""
    match = _RANGE.fullmatch(header or "")
    if match is None or not _is_meant(match[1], match[2]):
        return None
    if not match[1]:
        start, stop = max(0, num_bytes - int(match[2])), num_bytes  # the last so many bytes
    else:
        start = int(match[1])
        stop = min(int(match[2]) + 1, num_bytes) if match[2] else num_bytes
    if start >= stop:
        raise RangeNotSatisfiable(num_bytes)
    return start, stop


def content_range(part: tuple[int, int], num_bytes: int) -> str:
    """The header of a 206."""
    return f"bytes {part[0]}-{part[1] - 1}/{num_bytes}"


def _is_meant(first: str, last: str) -> bool:
    return bool(first or last) and not (first and last and int(first) > int(last))
