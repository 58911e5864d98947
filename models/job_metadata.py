"""The search index of job metadata: jobs outside batches, pair by pair. What is shown stays in the payload."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, delete, exists, insert, select

from models.columns import is_one_of
from models.packing import clean_text
from models.records import NewJob
from models.rows import Moved
from models.tables import job_metadata, jobs


def keep(connection: Connection, new: Sequence[NewJob], stored: Sequence[Moved]) -> None:
    """Index what was just stored of `new`. Costs a statement only where some job has metadata."""
    marked = {job.id: job for job in reversed(new) if _is_indexed(job)}  # of one id twice the first was stored
    if marked:
        _insert(connection, {row.id: marked[row.id].body["metadata"] for row in stored if row.id in marked})


def replace(connection: Connection, job_id: UUID, metadata: Mapping[str, str]) -> None:
    """Index other metadata for a job outside batches."""
    forget(connection, job_id)
    _insert(connection, {job_id: metadata})


def forget(connection: Connection, job_id: UUID) -> None:
    """Drop a job from the index."""
    connection.execute(delete(job_metadata).where(job_metadata.c.job_id == job_id))


def is_pair(key: str, value: str) -> ColumnElement[bool]:
    """A row of the index says this."""
    return (job_metadata.c.key == clean_text(key)) & (job_metadata.c.value == clean_text(value))


def has_pair(job_id: ColumnElement[UUID], key: str, value: str) -> ColumnElement[bool]:
    """The job has this pair among others."""
    other = job_metadata.alias()
    same = (other.c.key == clean_text(key)) & (other.c.value == clean_text(value))
    return exists(select(other.c.job_id).where(other.c.job_id == job_id, same))


def _is_indexed(job: NewJob) -> bool:
    """Rows of a batch are found through it; a refused job's metadata was never checked and may not fit an index."""
    return job.batch_id is None and job.error is None and bool(job.body.get("metadata"))


def _insert(connection: Connection, metadata: Mapping[UUID, Mapping[str, str]]) -> None:
    """Store the pairs with what a list is filtered and ordered by: the job's tenant and its time."""
    query = select(jobs.c.id.label("job_id"), jobs.c.tenant, jobs.c.created_at)
    found = connection.execute(query.where(is_one_of(connection, jobs.c.id, list(metadata)))).mappings().all()
    rows = [dict(job) | pair for job in found for pair in _pairs(metadata[job["job_id"]])]
    if rows:
        connection.execute(insert(job_metadata), rows)


def _pairs(metadata: Mapping[str, str]) -> list[dict[str, str]]:
    """Keys and values as a database takes them; two keys that differ in what it does not take are one."""
    return [
        {"key": key, "value": clean_text(value)}
        for key, value in {clean_text(k): v for k, v in metadata.items()}.items()
    ]
