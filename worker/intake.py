"""Intake: a file of prompts becomes rows, chunk by chunk, each chunk with its place in the file in one transaction.

Killed at any moment it goes on at the next line. Memory is one chunk, whatever the file.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from models.batch_lines import BatchLine, parse_line
from models.batch_store import BatchStore
from models.ids import uuid7
from models.records import BatchRecord, JobError, NewJob
from models.requests import DEFAULT_PRIORITY

CHUNK_LINES = 1000  # lines a transaction: its cost is spread, and decoding begins after the first of them


@dataclass(frozen=True, slots=True)
class Line:
    """A line as read: its number from 1, its bytes (cut just above the limit), the file offset behind it."""

    number: int
    raw: bytes
    end: int


def take_in(
    batches: BatchStore,
    batch: BatchRecord,
    path: Path,
    *,
    model: str,
    models: Collection[str],
    max_line_bytes: int,
    on_chunk: Callable[[], bool],
) -> bool:
    """Read the rest of the file into rows of `batch`. `on_chunk` is called after each transaction and says whether to
    go on; returns False when it said no. A bad line is stored refused, with its error, and the rest goes on.
    """
    with path.open("rb") as file:
        file.seek(batch.num_bytes_read)
        lines = read_lines(file, max_bytes=max_line_bytes, number=batch.num_lines_read)
        for chunk in _chunks(lines, CHUNK_LINES):
            jobs = [
                _job(line, parse_line(line.raw, models=models, max_bytes=max_line_bytes), batch, model)
                for line in chunk
                if line.raw.strip()
            ]
            batches.append(batch.id, jobs, num_lines=chunk[-1].number, num_bytes=chunk[-1].end)
            if not on_chunk():
                return False
    batches.end_intake(batch.id)
    return on_chunk()


def read_lines(file: BinaryIO, *, max_bytes: int, number: int = 0) -> Iterator[Line]:
    """Read from where the file stands; `number` lines came before. Of a line over the limit only the head is kept."""
    while raw := file.readline(max_bytes + 2):
        rest = raw
        while not rest.endswith(b"\n") and (rest := file.readline(max_bytes + 2)):
            pass
        number += 1
        yield Line(number, raw.rstrip(b"\r\n"), file.tell())


def _chunks(lines: Iterator[Line], size: int) -> Iterator[list[Line]]:
    chunk: list[Line] = []
    for line in lines:
        chunk.append(line)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _job(line: Line, parsed: BatchLine, batch: BatchRecord, model: str) -> NewJob:
    error = None if parsed.error is None else JobError(parsed.error.error_code, parsed.error.message)
    ttl = parsed.ttl_seconds
    return NewJob(
        id=uuid7(),
        model=model,
        endpoint=parsed.endpoint,
        body=parsed.body,
        tenant=batch.tenant,
        priority=DEFAULT_PRIORITY if parsed.priority is None else parsed.priority,
        custom_id=parsed.custom_id,
        batch_id=batch.id,
        line=line.number,
        deadline=datetime.now(UTC) + timedelta(seconds=ttl) if ttl else None,
        error=error,
    )
