"""Deleting a job: every row that tells of it, in one transaction. Nothing is marked and kept."""

from uuid import UUID

from sqlalchemy import Connection, delete, select

from models.erasing import erase_jobs, overwriting
from models.errors import JobNotFinal, JobOfBatch, NotFound
from models.reads import this_job
from models.status import FINAL
from models.tables import jobs


def delete_job(connection: Connection, job_id: UUID, tenant: str | None, endpoint: str | None) -> None:
    """Delete a final job outside batches. Raises NotFound, JobNotFinal, JobOfBatch.

    Nothing is locked to look first: a claim would pass over a queued row that is locked, and its message be lost.
    """
    this = this_job(job_id, tenant, endpoint)
    may_go = jobs.c.batch_id.is_(None) & jobs.c.status.in_(sorted(FINAL))
    with overwriting(connection):
        gone = connection.execute(delete(jobs).where(this, may_go).returning(jobs.c.id)).first()
    if gone is None:
        raise _refusal(connection, job_id, tenant, endpoint)
    erase_jobs(connection, [job_id])


def _refusal(connection: Connection, job_id: UUID, tenant: str | None, endpoint: str | None) -> Exception:
    row = connection.execute(select(jobs.c.batch_id).where(this_job(job_id, tenant, endpoint))).one_or_none()
    if row is None:
        return NotFound()
    return JobNotFinal() if row.batch_id is None else JobOfBatch()
