"""New jobs by the native route: one, many at once, or a finished one again."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from api.errors import Conflict
from api.rendering.bodies import job_public_id
from api.rendering.jobs import RETRY_OF, metadata_of
from api.services import Services
from api.submitting.idempotent import MIRROR, once_of
from api.submitting.submission import new_job, submit
from models.errors import InputExpired, JobNotFinal, RequestError, ResultExpired
from models.idempotency import Once
from models.ids import uuid7
from models.job_requests import parse_job, placed
from models.packing import dump_json
from models.records import JobRecord, NewJob
from models.requests import known_fields
from models.status import FINAL, Status
from models.submitting import Submission, Submitted


async def create_job(request: Request, services: Services, tenant: str, body: object) -> Submitted:
    """Store one job. Raises RequestError, IdempotencyKeyReused."""
    job, key = await _read_entry(services, tenant, body)
    return await _submit(services, job, once_of(request, body, key=key))


async def create_jobs(request: Request, services: Services, tenant: str, entries: list[object]) -> list[Submitted]:
    """Store many jobs, all or none. Raises RequestError, whose param begins with the place of the bad one."""
    jobs = []
    for index, entry in enumerate(entries):
        try:
            job, key = await _read_entry(services, tenant, entry)
            if key is not None:
                message = "one Idempotency-Key serves all jobs: send it as a header"
                raise RequestError("unsupported_parameter", message, param=MIRROR)
        except RequestError as error:
            raise placed(error, index) from None
        jobs.append(job)
    once = once_of(request, entries, key=None)
    group = [Submission(job, _share(once, index)) for index, job in enumerate(jobs)]
    submitted = await run_in_threadpool(services.store.submit_all, group)
    services.broker.announce()
    return submitted


async def retry_job(request: Request, services: Services, job: JobRecord) -> Submitted:
    """Store a finished job again, as it came. Raises JobNotFinal, InputExpired, or Conflict where its request was never
    sound."""
    if job.status not in FINAL:
        raise JobNotFinal
    if job.status is Status.FAILED and not job.attempt:
        raise Conflict("job_refused", "the job's request was refused before it could run: send a corrected one")
    return await _submit(services, job_again(job), once_of(request, {}, key=None))


def job_again(job: JobRecord) -> NewJob:
    """A final job as a new one, which names it. It is as suspect as the first: a request that crashed workers shall
    not meet others before it has run alone. One that completed did no harm."""
    is_suspect = job.status is not Status.COMPLETED
    if job.is_expired:
        raise ResultExpired
    if job.input_expired:
        raise InputExpired
    metadata = metadata_of(job) | {RETRY_OF: job_public_id(job)}
    return NewJob(
        id=uuid7(),
        model=job.model,
        endpoint=job.endpoint,
        body=job.body | {"metadata": metadata},
        tenant=job.tenant,
        priority=job.priority,
        deadline=_deadline_again(job, datetime.now(UTC)),
        max_attempts=job.max_attempts,
        suspicion=job.suspicion if is_suspect else 0,
        level=job.level if is_suspect else 0,
    )


async def _read_entry(services: Services, tenant: str, entry: object) -> tuple[NewJob, str | None]:
    def known(endpoint: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return body if services.settings.strict else known_fields(endpoint, body)[0]

    endpoint, parsed = parse_job(entry, known)
    return await new_job(services, tenant, endpoint, parsed), parsed.idempotency_key


async def _submit(services: Services, job: NewJob, once: Once | None) -> Submitted:
    return await submit(services, job, once=once, num_bytes=len(dump_json(job.body)))


def _share(once: Once | None, index: int) -> Once | None:
    """One key for many jobs: each is remembered under its place, and so found again by it. The first one has the key
    itself, so that the key cannot serve another request beside."""
    return once if once is None or index == 0 else replace(once, key=f"{once.key}\x01{index}")


def _deadline_again(job: JobRecord, now: datetime) -> datetime | None:
    """A job that had so long has as long again; a moment that is still to come stays."""
    ttl = job.body.get("ttl")
    if ttl is not None:
        return now + timedelta(seconds=ttl)
    return job.deadline if job.deadline is not None and job.deadline > now else None
