"""Bodies of uploads as they come in: how slow, how large, how cut."""

import asyncio
from collections.abc import Sequence

import pytest
from fastapi import Request
from starlette.types import Message

from api.errors import RequestTimeout, RequestTooLarge, UnsupportedMedia
from api.files.multipart import Form
from api.files.uploads import FORM_BYTES, READ_BYTES, Patience, read_form
from tests.unit.api.forms import BOUNDARY, encoded, upload

FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}
MAX_FILE_BYTES = 10 * READ_BYTES


class Body:
    """What a server hands on of a body: some chunks, then silence."""

    def __init__(self, chunks: Sequence[bytes], *, ends: bool = True) -> None:
        self.left = list(chunks)
        self._ends = ends

    async def receive(self) -> Message:
        if not self.left and not self._ends:
            await asyncio.Event().wait()
        body = self.left.pop(0) if self.left else b""
        return {"type": "http.request", "body": body, "more_body": bool(self.left) or not self._ends}


def read(body: Body, written: bytearray, *, patience: Patience | None = None, headers: dict[str, str] = FORM) -> Form:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    request = Request({"type": "http", "method": "POST", "headers": raw}, body.receive)
    return asyncio.run(
        read_form(
            request,
            written.extend,
            fields=frozenset({"purpose"}),
            max_file_bytes=MAX_FILE_BYTES,
            strict=True,
            patience=patience or Patience(),
        )
    )


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def test_file_comes_out_as_it_went_in() -> None:
    data, written = bytes(range(256)) * 20_000, bytearray()

    form = read(Body(pieces(encoded(upload(data)), 65_000)), written)

    assert (form.num_bytes, form.fields, bytes(written)) == (len(data), {"purpose": "batch"}, data)


def test_body_that_stops_is_cut() -> None:
    with pytest.raises(RequestTimeout, match="no byte came"):
        read(Body([encoded(upload())[:50]], ends=False), bytearray(), patience=Patience(gap_seconds=0.01))


def test_body_that_trickles_is_cut() -> None:
    """A byte now and then never lets the gap grow; the average tells."""
    patience = Patience(grace_seconds=0, min_bytes_per_second=1e15)

    with pytest.raises(RequestTimeout, match="bytes a second"):
        read(Body(pieces(encoded(upload()), 1)), bytearray(), patience=patience)


def test_announced_length_over_the_limit_is_refused_unread() -> None:
    body = Body([b"x"])

    with pytest.raises(RequestTooLarge):
        read(body, bytearray(), headers=FORM | {"content-length": str(MAX_FILE_BYTES + FORM_BYTES + 1)})
    assert body.left == [b"x"]


def test_body_over_the_limit_is_not_read_to_its_end() -> None:
    """Chunked: nothing is announced. What was read may be the limit and one piece more."""
    body = Body([encoded(upload(b""), closed=False)[:-2], *[bytes(65_536)] * 1000])
    written = bytearray()

    with pytest.raises(RequestTooLarge):
        read(body, written)
    num_read = (1000 - len(body.left)) * 65_536
    assert len(written) <= MAX_FILE_BYTES < num_read <= MAX_FILE_BYTES + 2 * READ_BYTES


@pytest.mark.parametrize("length", ["-1", "x", ""])
def test_announced_length_that_is_none_is_passed_over(length: str) -> None:
    assert read(Body([encoded(upload(b"x"))]), bytearray(), headers=FORM | {"content-length": length}).num_bytes == 1


def test_announced_length_of_many_digits_is_refused() -> None:
    with pytest.raises(RequestTooLarge):
        read(Body([]), bytearray(), headers=FORM | {"content-length": "9" * 5000})


@pytest.mark.parametrize("headers", [FORM | {"content-encoding": "gzip"}, {"content-type": "text/xml"}, {}])
def test_other_bodies_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(UnsupportedMedia):
        read(Body([encoded(upload())]), bytearray(), headers=headers)
