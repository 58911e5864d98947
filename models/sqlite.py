"""The hot statements as SQLite likes them. One writer at a time, so nothing here needs to lock or skip a row."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Connection, Row, Select, Uuid, exists, or_, select, text, update
from sqlalchemy.dialects.sqlite import insert

from models import job_metadata
from models.columns import from_now, is_one_of, now
from models.packing import dump_json
from models.records import NewJob, Outcome
from models.rows import Moved, completion_values, job_values, outcome_values
from models.status import Status
from models.suspects import Level
from models.tables import completions, idempotency, jobs, payloads, workers

_CLAIMED: Select[Any] = select(
    *(jobs.c.id, jobs.c.attempt, jobs.c.endpoint, jobs.c.model, jobs.c.priority, jobs.c.deadline),
    *(jobs.c.suspicion, jobs.c.tenant, payloads.c.body),
).join(payloads, payloads.c.job_id == jobs.c.id)
_FINISH = text("""
    UPDATE jobs
    SET status = iif(jobs.cancel_requested, 'cancelled', outcome.status),
        error_code = iif(jobs.cancel_requested, NULL, outcome.error_code),
        error_message = iif(jobs.cancel_requested, NULL, outcome.error_message),
        owner = NULL, finished_at = :now
    FROM (SELECT json_extract(value, '$.id') AS id, json_extract(value, '$.attempt') AS attempt,
                 json_extract(value, '$.status') AS status, json_extract(value, '$.error_code') AS error_code,
                 json_extract(value, '$.error_message') AS error_message FROM json_each(:outcomes)) AS outcome
    WHERE jobs.id = outcome.id AND jobs.owner = :worker AND jobs.attempt = outcome.attempt  -- the fence
    RETURNING id, batch_id, status
""").columns(id=Uuid, batch_id=Uuid)


def insert_jobs(connection: Connection, new: Sequence[NewJob]) -> list[Moved]:
    """Store jobs with their bodies. Returns those stored: not one whose id, or custom_id in its batch, is there."""
    time_now = datetime.now(UTC)  # of the database's one host
    there = _stored(connection, new)
    rows = [job_values(job) | _first_state(job, time_now) for job in new if job.id not in there]
    if not rows:
        return []
    connection.execute(insert(jobs).on_conflict_do_nothing(), rows)
    stored = _stored(connection, new) - there
    added = [job for job in {job.id: job for job in reversed(new)}.values() if job.id in stored]
    connection.execute(insert(payloads), [{"job_id": job.id, "body": dump_json(job.body)} for job in added])
    moved = [Moved(job.id, job.batch_id, Status.FAILED if job.error else Status.QUEUED) for job in added]
    job_metadata.keep(connection, new, moved)
    return moved


def _stored(connection: Connection, new: Sequence[NewJob]) -> set[UUID]:
    ids = [job.id for job in new]
    return set(connection.scalars(select(jobs.c.id).where(is_one_of(connection, jobs.c.id, ids))))


def keep_keys(
    connection: Connection, keys: Sequence[Mapping[str, Any]], *, max_age_seconds: float
) -> set[tuple[str, str]]:
    """Write rows of `idempotency`, replacing older ones. Returns tenant and key of those written."""
    statement = insert(idempotency).values(created_at=now())
    names = ("path", "body_hash", "job_id", "batch_id", "created_at")
    upsert = statement.on_conflict_do_update(
        index_elements=["tenant", "key"],
        set_={name: statement.excluded[name] for name in names},
        where=idempotency.c.created_at <= from_now(-max_age_seconds),
    )
    written = connection.execute(upsert.returning(idempotency.c.tenant, idempotency.c.key), keys)
    return {(row.tenant, row.key) for row in written}


def claim(connection: Connection, worker_id: UUID, ids: Sequence[UUID], level: Level) -> Sequence[Row[Any]]:
    """Make queued rows of this level of suspicion among `ids` the worker's own, if its lease lasts."""
    lease = select(workers.c.id).where(workers.c.id == worker_id, workers.c.lease_until > now())
    taken = connection.scalars(
        update(jobs)
        .where(is_one_of(connection, jobs.c.id, ids), jobs.c.status.concat("") == Status.QUEUED)
        .where(jobs.c.level == int(level))
        .where(or_(jobs.c.deadline.is_(None), jobs.c.deadline > now()), exists(lease))
        .values(status=Status.IN_PROGRESS, owner=worker_id, attempt=jobs.c.attempt + 1, started_at=now())
        .returning(jobs.c.id)
    ).all()
    return connection.execute(_CLAIMED.where(is_one_of(connection, jobs.c.id, taken))).all()


def finish(connection: Connection, worker_id: UUID, outcomes: Sequence[Outcome]) -> list[Moved]:
    """Write outcomes of attempts the worker still holds. Returns those rows, with the status as written."""
    values = [outcome_values(outcome) | {"id": outcome.id.hex} for outcome in outcomes]
    time_now = datetime.now(UTC)
    parameters = {
        "outcomes": orjson.dumps(values).decode(),
        "worker": worker_id.hex,
        "now": time_now.timestamp(),
    }
    moved = [Moved(*row) for row in connection.execute(_FINISH, parameters)]
    completed = {row.id for row in moved if row.status == Status.COMPLETED}
    choices = [
        completion_values(outcome.id, choice) | {"created_at": time_now}
        for outcome in outcomes
        if outcome.id in completed
        for choice in outcome.completions
    ]
    if choices:
        connection.execute(insert(completions), choices)
    return moved


def _first_state(job: NewJob, time_now: datetime) -> dict[str, Any]:
    return {
        "status": Status.FAILED if job.error else Status.QUEUED,
        "finished_at": time_now if job.error else None,
        "created_at": time_now,
        **dict.fromkeys(("attempt", "solo_crashes"), 0),
        "cancel_requested": False,
    }
