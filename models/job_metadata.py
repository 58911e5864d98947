"""The search index of job metadata: jobs outside batches, pair by pair. What is shown stays in the payload."""

from collections.abc import Mapping, Sequence
from uuid import UUID

import orjson
from sqlalchemy import ColumnElement, Connection, delete, exists, select, text

from models.packing import clean_text
from models.records import NewJob
from models.rows import Moved
from models.tables import job_metadata

# Many pairs in one statement, as one text.
_INSERT = {
    "postgresql": text("""
        INSERT INTO job_metadata (job_id, tenant, key, value, created_at)
        SELECT jobs.id, jobs.tenant, pair.key, pair.value, jobs.created_at
        FROM json_to_recordset(CAST(:pairs AS json)) AS pair (id uuid, key text, value text)
        JOIN jobs ON jobs.id = pair.id
    """),
    "sqlite": text("""
        INSERT INTO job_metadata (job_id, tenant, key, value, created_at)
        SELECT jobs.id, jobs.tenant, json_extract(pair.value, '$.key'), json_extract(pair.value, '$.value'),
               jobs.created_at
        FROM json_each(:pairs) AS pair JOIN jobs ON jobs.id = json_extract(pair.value, '$.id')
    """),
}


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
    pairs = [pair for job_id, values in metadata.items() for pair in _pairs(job_id, values)]
    if pairs:
        statement = _INSERT[connection.dialect.name]
        connection.execute(statement, {"pairs": orjson.dumps(pairs).decode()})


def _pairs(job_id: UUID, metadata: Mapping[str, str]) -> list[dict[str, str]]:
    """Keys and values as a database takes them; two keys that differ in what it does not take are one."""
    clean = {clean_text(key): clean_text(value) for key, value in metadata.items()}
    return [{"id": job_id.hex, "key": key, "value": value} for key, value in clean.items()]
