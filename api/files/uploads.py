"""An upload on its way from the socket to the storage: read as it comes, at most READ_BYTES of it in memory."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from api.errors import RequestTimeout, UnsupportedMedia
from api.files.multipart import MAX_FIELD_BYTES, MAX_PARTS, Form, FormReader, boundary_of, too_large

READ_BYTES = 1 << 20  # parsed and written at once, on a thread
FORM_BYTES = MAX_PARTS * (MAX_FIELD_BYTES + 8192)  # of a body beside the file: boundaries, headers, fields


@dataclass(frozen=True, slots=True)
class Patience:
    """How slow a body may come. No limit on the whole: a large file may take an hour on a slow line."""

    gap_seconds: float = 30.0  # without a byte
    grace_seconds: float = 300.0  # before the average is looked at
    min_bytes_per_second: float = 10_000.0


async def read_form(
    request: Request,
    write: Callable[[memoryview], None],
    *,
    fields: frozenset[str],
    max_file_bytes: int,
    strict: bool,
    patience: Patience,
) -> Form:
    """Read a form with one file, whose bytes `write` gets on a thread.

    Raises RequestError or one of its kind (400, 408, 413, 415), and ClientDisconnect.
    """
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise UnsupportedMedia("unsupported_encoding", "send the body without Content-Encoding")
    boundary = boundary_of(request.headers.get("content-type", ""))
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > max_file_bytes + FORM_BYTES:
        raise too_large(max_file_bytes)
    reader = FormReader(boundary, write, fields=fields, max_file_bytes=max_file_bytes, strict=strict)
    async for piece in _gathered(_in_time(request.stream(), patience)):
        await run_in_threadpool(reader.feed, piece)
    return reader.form()


async def _gathered(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Fewer, larger pieces: each costs a change of threads."""
    gathered = bytearray()
    async for chunk in chunks:
        gathered += chunk
        if len(gathered) >= READ_BYTES:
            yield bytes(gathered)
            gathered = bytearray()
    if gathered:
        yield bytes(gathered)


async def _in_time(chunks: AsyncIterator[bytes], patience: Patience) -> AsyncIterator[bytes]:
    """The chunks, as long as they come fast enough. Raises RequestTimeout."""
    started, num_bytes = time.monotonic(), 0
    while True:
        try:
            chunk = await asyncio.wait_for(anext(chunks, None), patience.gap_seconds)
        except TimeoutError:
            raise _slow(f"no byte came for {patience.gap_seconds:g} s") from None
        if chunk is None:
            return
        num_bytes += len(chunk)
        seconds = time.monotonic() - started
        if seconds > patience.grace_seconds and num_bytes < patience.min_bytes_per_second * seconds:
            raise _slow(f"fewer than {patience.min_bytes_per_second:g} bytes a second came")
        yield chunk


def _slow(reason: str) -> RequestTimeout:
    return RequestTimeout("request_timeout", f"the upload is too slow: {reason}")
