"""Lines of a batch becoming rows: chunk by chunk, each with its progress in one transaction, safe to repeat."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, exists, false, func, select, text, update

from models import batches as batch_rows
from models import dialects
from models.columns import now
from models.errors import BatchClosed, IntakeLost, NotFound
from models.packing import dump_json
from models.records import BatchRecord, JobError, NewJob
from models.rows import batch_record
from models.status import BatchStatus
from models.tables import UNREAD, batches, jobs, workers

DUPLICATE = "duplicate_custom_id"
OPEN = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)  # statuses in which lines are taken until the input is read


def append(
    connection: Connection,
    batch_id: UUID,
    new: Sequence[NewJob],
    *,
    num_lines: int,
    num_bytes: int,
    owner: UUID | None = None,
) -> None:
    """Store a chunk of lines and how far the input is read with it; lines stored before are left as they are."""
    batch = _lock_open(connection, batch_id, owner)
    fresh = _without_stored(connection, batch_id, new)
    rows = [
        replace(
            job,
            batch_id=batch_id,
            deadline=_earlier(job.deadline, batch.expires_at),
            max_attempts=batch.max_attempts if job.max_attempts is None else job.max_attempts,
        )
        for job in fresh
    ]
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


def end(connection: Connection, batch_id: UUID, owner: UUID | None = None) -> None:
    """The input is read to its end: from now on the last row completes the batch. Nothing for a reader that lost it."""
    connection.execute(
        update(batches)
        .where(batches.c.id == batch_id, batches.c.status.in_(OPEN), batches.c.intake_owner.is_not_distinct_from(owner))
        .values(
            status=BatchStatus.IN_PROGRESS,
            in_progress_at=func.coalesce(batches.c.in_progress_at, now()),
            input_read=True,
            intake_owner=None,
        )
    )
    batch_rows.settle(connection, batch_id)


def fail(
    connection: Connection, batch_id: UUID, errors: Sequence[Mapping[str, Any]], owner: UUID | None = None
) -> bool:
    """The input as a whole is bad. Returns whether the batch was still being read, and by this reader."""
    failed = connection.execute(
        update(batches)
        .where(batches.c.id == batch_id, batches.c.status.in_(OPEN), ~batches.c.input_read)
        .where(batches.c.intake_owner.is_not_distinct_from(owner))
        .values(status=BatchStatus.FAILED, failed_at=now(), errors=dump_json([*errors]), intake_owner=None)
    )
    return failed.rowcount == 1


def is_waiting(connection: Connection) -> bool:
    """Whether some input is to be read, by whomever."""
    query = select(batches.c.id).where(text(UNREAD), batches.c.input_file_id.is_not(None)).limit(1)
    return connection.execute(query).first() is not None


def take(connection: Connection, worker_id: UUID) -> BatchRecord | None:
    """Give a worker with a lease the oldest batch whose input nobody else alive reads, those of high priority first.

    A worker that asks reads none: what it holds is what it gave up when the database was away.
    """
    # A value for each row, not EXISTS: of a row that somebody took just now PostgreSQL looks again at the row's own
    # columns, but not at what it was joined with.
    holder = workers.alias("holder")
    lease_of_holder = select(holder.c.lease_until > now()).where(
        holder.c.id == batches.c.intake_owner, holder.c.id != worker_id
    )
    is_held = func.coalesce(lease_of_holder.scalar_subquery(), false())
    free = (
        select(batches.c.id)
        .where(text(UNREAD), batches.c.input_file_id.is_not(None), ~is_held)
        .order_by(batches.c.priority.desc(), batches.c.created_at)
        .limit(1)
        .with_for_update(skip_locked=True, of=batches)
    ).cte("free")
    lease = exists().where(workers.c.id == worker_id, workers.c.lease_until > now())
    row = connection.execute(
        update(batches).where(batches.c.id == free.c.id, lease).values(intake_owner=worker_id).returning(batches)
    )
    found = row.mappings().one_or_none()
    return None if found is None else batch_record(found)


def give_back(connection: Connection, batch_id: UUID, owner: UUID) -> None:
    """Somebody else may go on reading."""
    connection.execute(
        update(batches).where(batches.c.id == batch_id, batches.c.intake_owner == owner).values(intake_owner=None)
    )


def note_validated(connection: Connection, batch_id: UUID, owner: UUID, num_lines: int) -> None:
    """Lines checked so far, for whoever watches. Raises BatchClosed or IntakeLost: then checking on is in vain."""
    _lock_open(connection, batch_id, owner)
    connection.execute(update(batches).where(batches.c.id == batch_id).values(num_lines_read=num_lines))


def validated(connection: Connection, batch_id: UUID, owner: UUID, num_requests: int) -> BatchRecord:
    """The input is sound: its lines are taken from the first one on. Returns the batch as it stands then."""
    batch = _lock_open(connection, batch_id, owner)
    if batch.status is BatchStatus.IN_PROGRESS:  # the answer to a first try was lost
        return batch
    row = connection.execute(
        update(batches)
        .where(batches.c.id == batch_id)
        .values(
            status=BatchStatus.IN_PROGRESS,
            in_progress_at=now(),
            num_requests=num_requests,
            num_lines_read=0,
            num_bytes_read=0,
        )
        .returning(batches)
    )
    return batch_record(row.mappings().one())


def expire_unread(connection: Connection) -> None:
    """Batches whose window passed before a single line became a row. One that has rows is read on: its lines expire,
    and each is told of in the error file."""
    connection.execute(
        update(batches)
        .where(text(UNREAD), batches.c.expires_at <= now(), batches.c.num_total == 0)
        .values(status=BatchStatus.EXPIRED, finalizing_at=now(), expired_at=now(), intake_owner=None)
    )


def _lock_open(connection: Connection, batch_id: UUID, owner: UUID | None) -> BatchRecord:
    """The fence: a reader that stood still while its lease ran out may find another one in its place."""
    batch = batch_rows.lock(connection, batch_id)
    if batch is None:
        raise NotFound
    if batch.status not in OPEN or batch.input_read:
        raise BatchClosed
    if batch.intake_owner != owner:
        raise IntakeLost
    return batch


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return min(one, other) if one and other else one or other


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
