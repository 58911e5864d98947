"""Forms as clients write them, byte for byte."""

from collections.abc import Sequence

BOUNDARY = b"----boundary"
Part = tuple[str, str | None, bytes]  # name, filename, data


def encoded(parts: Sequence[Part], *, closed: bool = True) -> bytes:
    """The body that a client sends for these parts, in this order."""
    body = b"".join(_part(*part) for part in parts)
    return body + (b"--%s--\r\n" % BOUNDARY if closed else b"")


def upload(data: bytes = b"{}\n", *, purpose: str = "batch", filename: str = "in.jsonl") -> list[Part]:
    """What the official client sends."""
    return [("purpose", None, purpose.encode()), ("file", filename, data)]


def _part(name: str, filename: str | None, data: bytes) -> bytes:
    shown = "" if filename is None else f'; filename="{filename}"'
    kind = "" if filename is None else "\r\nContent-Type: application/octet-stream"
    head = f'Content-Disposition: form-data; name="{name}"{shown}{kind}\r\n\r\n'
    return b"--%s\r\n%s%s\r\n" % (BOUNDARY, head.encode(), data)
