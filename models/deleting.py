"""Deleting a job: every row that tells of it, in one transaction. Nothing is marked and kept."""

from uuid import UUID

from sqlalchemy import Connection, delete, select

from models.errors import JobNotFinal, JobOfBatch, NotFound
from models.reads import this_job
from models.status import FINAL
from models.tables import completions, idempotency, job_metadata, jobs, payloads

# The payload before the search index: who changes metadata holds the payload, so no pair is added behind our back.
_ABOUT_IT = (payloads, job_metadata, completions, idempotency)


def delete_job(connection: Connection, job_id: UUID, tenant: str | None, endpoint: str | None) -> None:
    """Delete a final job outside batches. Raises NotFound, JobNotFinal, JobOfBatch.

    Nothing is locked to look first: a claim would pass over a queued row that is locked, and its message be lost.
    """
    this = this_job(job_id, tenant, endpoint)
    may_go = jobs.c.batch_id.is_(None) & jobs.c.status.in_(sorted(FINAL))
    if connection.execute(delete(jobs).where(this, may_go).returning(jobs.c.id)).first() is None:
        raise _refusal(connection, job_id, tenant, endpoint)
    for table in _ABOUT_IT:
        connection.execute(delete(table).where(table.c.job_id == job_id))


def _refusal(connection: Connection, job_id: UUID, tenant: str | None, endpoint: str | None) -> Exception:
    row = connection.execute(select(jobs.c.batch_id).where(this_job(job_id, tenant, endpoint))).one_or_none()
    if row is None:
        return NotFound()
    return JobNotFinal() if row.batch_id is None else JobOfBatch()
