"""Downloads: an upload's bytes or a stream over a batch's rows, whole or a range. No thread is held between chunks."""

from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from typing import BinaryIO

from fastapi import Response
from fastapi.concurrency import iterate_in_threadpool, run_in_threadpool
from fastapi.responses import StreamingResponse

from api.files.batch_files import BatchFile, cut_out, gzipped, measured
from api.files.ranges import content_range, cut, wants_range
from api.rendering.files import download_headers
from api.services import Services
from models.errors import NotFound, ResultExpired
from models.records import FileRecord

READ_BYTES = 256 << 10
MAX_LINES_MEASURED = 5000  # rendered to learn the length of a file that is only looked at
PARTIAL = "x-batchmill-partial"  # on what a running batch has so far


async def download(services: Services, file: FileRecord, headers: Mapping[str, str]) -> Response:
    """Answer GET content. Raises RangeNotSatisfiable, NotFound where the batch or the bytes are gone."""
    if file.batch_id is None:
        return await _of_upload(services, file, headers.get("range"))
    stream = await run_in_threadpool(batch_file, services, file)
    if not stream.is_whole:
        return StreamingResponse(stream.chunks(), headers=download_headers(file) | {PARTIAL: "true"})
    if wants_range(headers.get("range")):
        return await _part_of_batch(services, file, stream, headers["range"])
    return _whole_of_batch(services, file, stream, headers.get("accept-encoding", ""))


def batch_file(services: Services, file: FileRecord) -> BatchFile:
    """The stream that a batch's file is. Raises NotFound, ResultExpired."""
    batch = None if file.batch_id is None else services.batches.get(file.batch_id, file.tenant)
    if batch is None or file.id not in (batch.output_file_id, batch.error_file_id):  # deleted meanwhile
        raise NotFound
    if batch.results_expired_at is not None:
        raise ResultExpired
    return BatchFile.of(services.batches, batch, file.id)


def measure(services: Services, file: FileRecord, stream: BatchFile) -> int:
    """The length of a whole file in bytes, found by rendering it; noted for the next time."""
    num_bytes = sum(map(len, stream.chunks()))
    services.files.set_measured(file.id, num_bytes)
    return num_bytes


async def _of_upload(services: Services, file: FileRecord, range: str | None) -> Response:
    num_bytes = file.bytes or 0
    part = cut(range, num_bytes)
    start, stop = part or (0, num_bytes)
    stream = await run_in_threadpool(services.blobs.open, file.id)
    headers = download_headers(file) | {"accept-ranges": "bytes", "content-length": str(stop - start)}
    if part is not None:
        headers["content-range"] = content_range(part, num_bytes)
    return StreamingResponse(_read(stream, start, stop), 200 if part is None else 206, headers)


async def _part_of_batch(services: Services, file: FileRecord, stream: BatchFile, range: str) -> Response:
    """Render from the start and skip: rows have no place in a file that nobody wrote."""
    num_bytes = file.bytes
    if num_bytes is None:
        num_bytes = await run_in_threadpool(measure, services, file, stream)
    part = cut(range, num_bytes)
    assert part is not None, "the header was looked at"
    headers = {"accept-ranges": "bytes", "content-range": content_range(part, num_bytes)}
    return StreamingResponse(_sent(cut_out(stream.chunks(), *part)), 206, download_headers(file) | headers)


def _whole_of_batch(services: Services, file: FileRecord, stream: BatchFile, accepted: str) -> Response:
    """Without a length: one that was noted by another version, which rendered otherwise, would break the answer."""
    chunks = measured(stream.chunks(), partial(_note, services, file))
    headers = download_headers(file) | {"accept-ranges": "bytes", "vary": "accept-encoding"}
    if _takes_gzip(accepted):
        return StreamingResponse(_sent(gzipped(chunks)), headers=headers | {"content-encoding": "gzip"})
    return StreamingResponse(chunks, headers=headers)


async def _sent(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks that hold something. After an empty one too the answer can be given up: its client may be gone."""
    async for chunk in iterate_in_threadpool(chunks):
        if chunk:
            yield chunk


def _note(services: Services, file: FileRecord, num_bytes: int) -> None:
    if file.bytes != num_bytes:
        services.files.set_measured(file.id, num_bytes)


def _read(stream: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    with stream:
        stream.seek(start)
        while start < stop:
            chunk = stream.read(min(READ_BYTES, stop - start))
            if not chunk:
                return  # the server notices that bytes are missing and cuts the connection
            start += len(chunk)
            yield chunk


def _takes_gzip(accepted: str) -> bool:
    for entry in accepted.lower().split(","):
        coding, _, weight = entry.replace(" ", "").partition(";q=")
        if coding == "gzip":
            return weight.strip("0.") != "" or not weight
    return False
