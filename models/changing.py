"""Changing a stored job: its priority and deadline while it waits, its metadata at any time."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, case, select, update

from models import job_metadata
from models.columns import from_now
from models.errors import JobNotQueued, NotFound, ResultExpired
from models.packing import dump_json, load_json
from models.reads import this_job
from models.records import JobChange
from models.status import Status
from models.tables import batches, jobs, payloads


def change(connection: Connection, job_id: UUID, tenant: str | None, wanted: JobChange) -> None:
    """Write what is wanted, all or none. Raises NotFound; JobNotQueued where the job no longer waits."""
    if wanted.priority is not None or wanted.ttl_seconds is not None:
        _reorder(connection, job_id, tenant, wanted)
    if wanted.metadata is not None:
        _describe(connection, job_id, tenant, wanted)


def _reorder(connection: Connection, job_id: UUID, tenant: str | None, wanted: JobChange) -> None:
    """Fenced by the status: a job that was claimed meanwhile stays as it was. It is announced again, as the message
    that announced it has its old priority, or came while this statement held the row."""
    values = {} if wanted.priority is None else {"priority": wanted.priority}
    deadline = {} if wanted.ttl_seconds is None else {"deadline": _deadline(wanted.ttl_seconds)}
    this = this_job(job_id, tenant, wanted.endpoint)
    moved = connection.execute(
        update(jobs)
        .where(this, jobs.c.status.concat("") == Status.QUEUED)
        .values(published_at=None, **values, **deadline)
        .returning(jobs.c.id)
    ).first()
    if moved is None:
        is_there = connection.execute(select(jobs.c.id).where(this)).first() is not None
        raise JobNotQueued if is_there else NotFound


def _deadline(ttl_seconds: int) -> ColumnElement[datetime]:
    """So long from now; a row of a batch ends with its batch's window at the latest, or the batch would outlive it."""
    asked = from_now(ttl_seconds)
    window = select(batches.c.expires_at).where(batches.c.id == jobs.c.batch_id).scalar_subquery()
    return case((window < asked, window), else_=asked)


def _describe(connection: Connection, job_id: UUID, tenant: str | None, wanted: JobChange) -> None:
    """Rewrite the metadata in the payload, which is locked meanwhile, and in the index. Who decodes needs neither."""
    kept = select(payloads.c.body).where(payloads.c.job_id == job_id).with_for_update()
    body = connection.scalars(kept).one_or_none()
    found = select(jobs.c.batch_id).where(this_job(job_id, tenant, wanted.endpoint))
    job = connection.execute(found).one_or_none()
    if job is None:
        raise NotFound
    if body is None:
        raise ResultExpired
    metadata: Mapping[str, str] = wanted.metadata or {}
    text = dump_json({**load_json(body), "metadata": dict(metadata)})
    connection.execute(update(payloads).where(payloads.c.job_id == job_id).values(body=text))
    if job.batch_id is None:
        job_metadata.replace(connection, job_id, metadata)
