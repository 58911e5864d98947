"""/v1/jobs: one view over every kind of job: submit, list, read, wait, poll, cancel, repeat, change, delete."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.auth import CallerDep
from api.body import read_json, read_optional_json
from api.errors import ResultNotReady
from api.jobs import reading as job_reading
from api.jobs.creation import create_job, create_jobs, retry_job
from api.jobs.polling import poll
from api.jobs.reading import read_job, read_when_reached, show_job
from api.paging import list_body, metadata_filter, page_limit
from api.rendering.bodies import background_body
from api.rendering.jobs import REQUEST, RESULT, job_body
from api.responses import REPLAYED, json_response
from api.routes.parameters import After, Limit, Order, Until, Wait, cursor_of
from api.services import Services, ServicesDep
from api.submitting.endings import completed
from models.errors import NotFound, RequestError
from models.ids import parse_batch_id, parse_job_id
from models.job_requests import JobPatch, PollRequest, parse_jobs, read_fields
from models.listing import JobFilter, Page
from models.records import JobChange
from models.requests import ENDPOINTS
from models.status import FINAL, Status

router = APIRouter()

ACCEPTED = 202
END_OF_TIME = 253_402_300_799  # seconds since 1970 at the end of the year 9999, the last that a date can have

Include = Annotated[
    str, Query(description="What the job object shall hold beside its state: request, result, or both with a comma.")
]
Moment = Annotated[float | None, Query(ge=0, le=END_OF_TIME, allow_inf_nan=False, description="Seconds since 1970.")]


@router.post("/v1/jobs", status_code=ACCEPTED)
async def submit_jobs(request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """Submit a job for any endpoint, or up to 1,000 as `jobs`, all or none. They are stored once this answers."""
    body = await read_json(request)
    entries = parse_jobs(body)
    if entries is None:
        submitted = [await create_job(request, services, caller.tenant, body)]
    else:
        submitted = await create_jobs(request, services, caller.tenant, entries)
    jobs = await run_in_threadpool(services.store.jobs, [entry.id for entry in submitted], caller.tenant)
    headers = REPLAYED if any(entry.replayed for entry in submitted) else {}
    bodies = [job_body(job, include=()) for job in jobs]
    return json_response(bodies[0] if entries is None else list_body(bodies, has_more=False), ACCEPTED, headers=headers)


@router.post("/v1/jobs/poll")
async def poll_jobs(request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """Read up to 1,000 jobs in one call; with `wait` answer as soon as one of them changes, or ends.

    Ids that name no job of yours are listed as `unknown`.
    """
    wanted = read_fields(PollRequest, await read_json(request))
    return json_response(await poll(request, services, caller.tenant, wanted))


@router.get("/v1/jobs")
def list_jobs(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    status: Status | None = None,
    batch_id: str | None = None,
    model: str | None = None,
    endpoint: str | None = None,
    created_after: Moment = None,
    created_before: Moment = None,
    include: Include = "",
    order: Order = "desc",
    after: After = None,
    limit: Limit = None,
) -> Response:
    """List jobs outside batches, or with `batch_id` the rows of a batch by their line; newest first.

    `metadata[key]=value` finds jobs outside batches that were submitted with this pair.
    """
    parts = _parts(include)
    wanted = JobFilter(
        batch_id=None if batch_id is None else _batch(services, caller.tenant, batch_id),
        status=status,
        endpoint=endpoint,
        model=model,
        metadata=metadata_filter(request.query_params),
        created_after=_moment(created_after),
        created_before=_moment(created_before),
    )
    _check(wanted)
    page = Page(page_limit(limit), cursor_of(after), is_descending=order == "desc")
    jobs, has_more = services.store.list_jobs(caller.tenant, wanted, page)
    return json_response(list_body([job_body(job, parts) for job in jobs], has_more=has_more))


@router.get("/v1/jobs/{job_id}")
async def get_job(
    job_id: str,
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    wait: Wait = None,
    until: Until = "terminal",
    include: Include = RESULT,
) -> Response:
    """Read a job, with its result once it is completed; with `wait` answer as soon as it ends, or changes."""
    id, parts = parse_job_id(job_id), _parts(include)
    job = await read_when_reached(request, services, caller.tenant, id, wait=wait, until=until)
    return json_response(await run_in_threadpool(show_job, services, job, parts))


@router.get("/v1/jobs/{job_id}/result")
async def get_result(
    job_id: str, request: Request, services: ServicesDep, caller: CallerDep, wait: Wait = None
) -> Response:
    """Read what the job's endpoint would have answered, the error of a failed job included. 409: not finished yet."""
    id = parse_job_id(job_id)
    job = await read_when_reached(request, services, caller.tenant, id, wait=wait, until="terminal")
    if job.status not in FINAL:
        raise ResultNotReady
    return json_response(await run_in_threadpool(background_body, completed(job)))


@router.post("/v1/jobs/{job_id}/cancel")
def cancel_job(job_id: str, services: ServicesDep, caller: CallerDep) -> Response:
    """Withdraw a job: at once while it is queued, at the next decode step once it runs. A final job stays as it is."""
    job = job_reading.cancel_job(services, caller.tenant, parse_job_id(job_id))
    return json_response(show_job(services, job))


@router.post("/v1/jobs/{job_id}/retry", status_code=ACCEPTED)
async def repeat_job(job_id: str, request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """Submit a finished job once more, as it came, as a job of its own that names the first one in `retry_of`."""
    id = parse_job_id(job_id)
    await read_optional_json(request)
    job = await run_in_threadpool(read_job, services, caller.tenant, id)
    submitted = await retry_job(request, services, job)
    again = await run_in_threadpool(read_job, services, caller.tenant, submitted.id)
    return json_response(job_body(again, include=()), ACCEPTED, headers=REPLAYED if submitted.replayed else {})


@router.patch("/v1/jobs/{job_id}")
async def change_job(job_id: str, request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """Change the metadata of a job, or the priority and the time to live of one that is still queued: all or none."""
    id = parse_job_id(job_id)
    patch = read_fields(JobPatch, await read_json(request))
    wanted = JobChange(priority=patch.priority, ttl_seconds=patch.ttl, metadata=patch.metadata)
    await run_in_threadpool(services.store.change, id, wanted, caller.tenant)
    services.broker.announce()
    job = await run_in_threadpool(read_job, services, caller.tenant, id)
    return json_response(await run_in_threadpool(show_job, services, job))


@router.delete("/v1/jobs/{job_id}")
def delete_job(job_id: str, services: ServicesDep, caller: CallerDep) -> Response:
    """Delete a final job with its request and its result. A row of a batch goes with its batch."""
    id = parse_job_id(job_id)
    services.store.delete(id, caller.tenant)
    return json_response({"id": job_id, "object": "job.deleted", "deleted": True})


def _batch(services: Services, tenant: str, text: str) -> UUID:
    """The batch of a filter. Raises NotFound."""
    batch_id = parse_batch_id(text)
    if services.batches.get(batch_id, tenant) is None:
        raise NotFound
    return batch_id


def _check(wanted: JobFilter) -> None:
    """Refuse what no list can be narrowed by."""
    if wanted.endpoint is not None and wanted.endpoint not in ENDPOINTS:
        raise RequestError("invalid_endpoint", f"endpoint must be one of {', '.join(ENDPOINTS)}", param="endpoint")
    if wanted.metadata and wanted.batch_id is not None:
        raise RequestError("invalid_value", "metadata finds jobs outside batches: leave batch_id out", param="metadata")


def _parts(include: str) -> Sequence[str]:
    """What a job object shall include. Raises RequestError."""
    parts = [part for part in include.split(",") if part]
    if not set(parts) <= {REQUEST, RESULT}:
        raise RequestError("invalid_value", f"include may hold {REQUEST} and {RESULT}", param="include")
    return parts


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
