"""Lines of a batch becoming rows: chunk by chunk, each with its progress in one transaction, safe to repeat."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, or_, select, update

from models import batches as batch_rows
from models import dialects
from models.columns import is_one_of, now
from models.errors import BatchClosed, NotFound
from models.packing import clean_text, dump_json
from models.records import BatchRecord, JobError, NewJob
from models.status import BatchStatus
from models.tables import batches, jobs

DUPLICATE = "duplicate_custom_id"


def append(connection: Connection, batch_id: UUID, new: Sequence[NewJob], *, num_lines: int, num_bytes: int) -> None:
    """Store a chunk of lines and how far the input is read with it; lines stored before are left as they are."""
    batch = _lock_open(connection, batch_id)
    fresh = _without_stored(connection, batch_id, new)
    rows = [replace(job, batch_id=batch_id, deadline=job.deadline or batch.expires_at) for job in fresh]
    used = _used_custom_ids(connection, batch_id, rows)
    moved = dialects.of(connection).insert_jobs(connection, list(_refuse_duplicates(rows, used)))
    connection.execute(
        update(batches)
        .where(batches.c.id == batch_id)
        .values(
            num_total=batches.c.num_total + len(moved),
            num_lines_read=max(batch.num_lines_read, num_lines),
            num_bytes_read=max(batch.num_bytes_read, num_bytes),
        )
    )
    batch_rows.count(connection, moved)


def end(connection: Connection, batch_id: UUID) -> None:
    """The input is read to its end: from now on the last row completes the batch."""
    connection.execute(
        update(batches)
        .where(batches.c.id == batch_id, batches.c.status == BatchStatus.VALIDATING)
        .values(status=BatchStatus.IN_PROGRESS, in_progress_at=now())
    )
    batch_rows.settle(connection, batch_id)


def fail(connection: Connection, batch_id: UUID, errors: Sequence[Mapping[str, Any]]) -> bool:
    """The input as a whole is bad. Returns whether the batch was still being read."""
    failed = connection.execute(
        update(batches)
        .where(batches.c.id == batch_id, batches.c.status == BatchStatus.VALIDATING)
        .values(status=BatchStatus.FAILED, failed_at=now(), errors=dump_json([*errors]))
    )
    return failed.rowcount == 1


def _lock_open(connection: Connection, batch_id: UUID) -> BatchRecord:
    batch = batch_rows.lock(connection, batch_id)
    if batch is None:
        raise NotFound
    if batch.status is not BatchStatus.VALIDATING:
        raise BatchClosed
    return batch


def _without_stored(connection: Connection, batch_id: UUID, new: Sequence[NewJob]) -> list[NewJob]:
    """Drop the lines a first try of this chunk stored, or another reader of the same input."""
    lines = [job.line for job in new if job.line is not None]
    if not lines:
        return list(new)
    between = jobs.c.line.between(min(lines), max(lines))
    stored = set(connection.scalars(select(jobs.c.line).where(jobs.c.batch_id == batch_id, between)))
    return [job for job in new if job.line not in stored]


def _used_custom_ids(connection: Connection, batch_id: UUID, rows: Sequence[NewJob]) -> set[str]:
    custom_ids = [clean_text(job.custom_id) for job in rows if job.custom_id is not None]
    counts = or_(jobs.c.error_code.is_(None), jobs.c.error_code != DUPLICATE)
    among = is_one_of(connection, jobs.c.custom_id, custom_ids)
    query = select(jobs.c.custom_id).where(jobs.c.batch_id == batch_id, counts, among)
    return {text for text in connection.scalars(query) if text is not None}


def _refuse_duplicates(rows: Sequence[NewJob], used: set[str]) -> Iterator[NewJob]:
    """Pass lines on; a custom_id that is taken makes its line refused. `used` grows with those seen."""
    for job in rows:
        custom_id = None if job.custom_id is None else clean_text(job.custom_id)
        if custom_id in used:
            message = f"line {job.line}: this custom_id was used by an earlier line of the batch"
            yield replace(job, error=JobError(DUPLICATE, message))
            continue
        if custom_id is not None:
            used.add(custom_id)
        yield job
