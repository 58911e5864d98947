"""Lines of a batch becoming rows: chunk by chunk, each with its progress in one transaction, safe to repeat."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, select, update

from models import batches as batch_rows
from models import dialects
from models.columns import now
from models.errors import BatchClosed, NotFound
from models.packing import dump_json
from models.records import BatchRecord, JobError, NewJob
from models.status import BatchStatus
from models.tables import batches, jobs

DUPLICATE = "duplicate_custom_id"
OPEN = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)  # statuses in which lines are taken until the input is read


def append(connection: Connection, batch_id: UUID, new: Sequence[NewJob], *, num_lines: int, num_bytes: int) -> None:
    """Store a chunk of lines and how far the input is read with it; lines stored before are left as they are."""
    batch = _lock_open(connection, batch_id)
    fresh = _without_stored(connection, batch_id, new)
    common: dict[str, Any] = {"batch_id": batch_id, "max_attempts": batch.max_attempts}
    rows = [replace(job, deadline=job.deadline or batch.expires_at, **common) for job in fresh]
    insert_jobs = dialects.of(connection).insert_jobs
    moved = insert_jobs(connection, rows)
    stored = {row.id for row in moved}
    moved += insert_jobs(connection, [_refused(job) for job in rows if job.id not in stored])
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
        .where(batches.c.id == batch_id, batches.c.status.in_(OPEN))
        .values(
            status=BatchStatus.IN_PROGRESS,
            in_progress_at=func.coalesce(batches.c.in_progress_at, now()),
            input_read=True,
            intake_owner=None,
        )
    )
    batch_rows.settle(connection, batch_id)


def fail(connection: Connection, batch_id: UUID, errors: Sequence[Mapping[str, Any]]) -> bool:
    """The input as a whole is bad. Returns whether the batch was still being read."""
    failed = connection.execute(
        update(batches)
        .where(batches.c.id == batch_id, batches.c.status.in_(OPEN), ~batches.c.input_read)
        .values(status=BatchStatus.FAILED, failed_at=now(), errors=dump_json([*errors]))
    )
    return failed.rowcount == 1


def _lock_open(connection: Connection, batch_id: UUID) -> BatchRecord:
    batch = batch_rows.lock(connection, batch_id)
    if batch is None:
        raise NotFound
    if batch.status not in OPEN or batch.input_read:
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


def _refused(job: NewJob) -> NewJob:
    """The line as stored when the unique index did not take its custom_id."""
    return replace(job, error=JobError(DUPLICATE, f"line {job.line}: an earlier line of the batch has this custom_id"))
