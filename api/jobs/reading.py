"""Jobs as routes read them: the caller's own, waited for where that is wanted."""

from collections.abc import Collection
from uuid import UUID

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from api.rendering.bodies import Json
from api.rendering.jobs import RESULT, job_body
from api.services import Services
from api.waiting import patience_seconds, wanted_seconds
from models.errors import NotFound, ResultExpired
from models.records import JobRecord
from models.status import FINAL, Status


def read_job(services: Services, tenant: str, job_id: UUID, endpoint: str | None = None) -> JobRecord:
    """The job, of this endpoint if one is given. Raises NotFound, ResultExpired."""
    job = services.store.job(job_id, tenant)
    if job is None or endpoint not in (None, job.endpoint):
        raise NotFound
    if job.is_expired:
        raise ResultExpired
    return job


async def read_when_reached(
    request: Request,
    services: Services,
    tenant: str,
    job_id: UUID,
    *,
    wait: float | None,
    until: str,
    endpoint: str | None = None,
) -> JobRecord:
    """The job at once; or, with time to wait, as soon as it ends (`until` terminal) or changes. Raises NotFound."""
    job = await run_in_threadpool(read_job, services, tenant, job_id, endpoint)
    seconds = patience_seconds(request.headers, wanted=wanted_seconds(request.headers, wait))
    if seconds > 0 and job.status not in FINAL:
        reached = FINAL.__contains__ if until == "terminal" else job.status.__ne__
        await services.watch.wait(job_id, reached, seconds=seconds)
        job = await run_in_threadpool(read_job, services, tenant, job_id, endpoint)
    return job


def cancel_job(services: Services, tenant: str, job_id: UUID, endpoint: str | None = None) -> JobRecord:
    """Cancel a job and read it again; a final one stays as it is. Raises NotFound."""
    read_job(services, tenant, job_id, endpoint)
    services.store.cancel(job_id, tenant)
    return read_job(services, tenant, job_id, endpoint)


def show_job(services: Services, job: JobRecord, include: Collection[str] = (RESULT,)) -> Json:
    """The job object, with its place in the queue while it has one."""
    position = services.store.queue_position(job.id) if job.status is Status.QUEUED else None
    return job_body(job, include) | {"queue_position": position}
