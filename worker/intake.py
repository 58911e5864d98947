"""Intake: a file of prompts becomes rows, chunk by chunk, each chunk with its place in the file in one transaction.

Killed at any moment it goes on at the next line. Memory is one chunk, whatever the file.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO
from uuid import UUID

from models.batch_lines import Resolve, parse_line
from models.batch_store import BatchStore
from models.ids import uuid7
from models.records import BatchRecord, JobError, NewJob
from worker.lines import Line, read_lines

CHUNK_LINES = 1000  # lines a transaction: its cost is spread, and decoding begins after the first of them
CHUNK_BYTES = 8 << 20  # and not more than this: a line may have a megabyte


@dataclass(frozen=True, slots=True)
class Reading:
    """How lines are read, and by whom. `owner` is the worker that took the intake; None where nobody has to."""

    resolve: Resolve
    max_line_bytes: int
    strict: bool = True
    owner: UUID | None = None


def take_in(
    batches: BatchStore,
    batch: BatchRecord,
    file: BinaryIO,
    reading: Reading,
    *,
    on_chunk: Callable[[frozenset[str]], bool],
) -> bool:
    """Read the rest of the file into rows of `batch`. `on_chunk` is called after each transaction with the models of
    its lines and says whether to go on; returns False when it said no. A bad line is stored refused, with its error,
    and the rest goes on. Raises BatchClosed, IntakeLost.
    """
    file.seek(batch.num_bytes_read)
    lines = read_lines(file, max_bytes=reading.max_line_bytes, number=batch.num_lines_read)
    for chunk in _chunks(lines):
        jobs = [_job(line, batch, reading) for line in chunk if not line.is_blank]
        last = chunk[-1]
        batches.append(batch.id, jobs, num_lines=last.number, num_bytes=last.end, owner=reading.owner)
        if not on_chunk(frozenset(job.model for job in jobs if job.error is None)):
            return False
    batches.end_intake(batch.id, reading.owner)
    return True


def _chunks(lines: Iterable[Line]) -> Iterator[list[Line]]:
    chunk: list[Line] = []
    num_bytes = 0
    for line in lines:
        chunk.append(line)
        num_bytes += len(line.raw)
        if len(chunk) == CHUNK_LINES or num_bytes > CHUNK_BYTES:
            yield chunk
            chunk, num_bytes = [], 0
    if chunk:
        yield chunk


def _job(line: Line, batch: BatchRecord, reading: Reading) -> NewJob:
    """A refused line names no model: what it asked for may be no model at all."""
    parsed = parse_line(line.raw, resolve=reading.resolve, max_bytes=reading.max_line_bytes, strict=reading.strict)
    return NewJob(
        id=uuid7(),
        model=parsed.model or "",
        endpoint=parsed.endpoint,
        body=parsed.body,
        tenant=batch.tenant,
        priority=batch.priority if parsed.priority is None else parsed.priority,
        custom_id=parsed.custom_id,
        batch_id=batch.id,
        line=line.number,
        deadline=parsed.deadline,
        max_attempts=parsed.max_attempts,
        error=None if parsed.error is None else JobError(parsed.error.error_code, parsed.error.message),
    )
