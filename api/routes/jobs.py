"""GET /v1/jobs/{id} and POST /v1/jobs/{id}/cancel: one view over every kind of job."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.job_rendering import job_body
from api.responses import json_response
from api.services import Services, ServicesDep
from api.waiting import patience_seconds
from models.errors import NotFound
from models.ids import parse_job_id
from models.records import DEFAULT_TENANT, JobRecord
from models.status import FINAL

router = APIRouter()

Wait = Annotated[float, Query(ge=0, allow_inf_nan=False, description="Seconds to wait for the job; 60 at most.")]
Until = Annotated[
    Literal["terminal", "change"], Query(description="What to wait for: the end, or any change of status.")
]


@router.get("/v1/jobs/{job_id}")
async def get_job(
    job_id: str, request: Request, services: ServicesDep, wait: Wait = 0.0, until: Until = "terminal"
) -> Response:
    """Read a job, with its result once it is completed; with `wait` answer as soon as it ends, or changes."""
    id = parse_job_id(job_id)
    job = await run_in_threadpool(_read, services, id)
    seconds = patience_seconds(request.headers, wanted=wait)
    if seconds > 0 and job.status not in FINAL:
        reached = FINAL.__contains__ if until == "terminal" else job.status.__ne__
        await services.watch.wait(id, reached, seconds=seconds)
        job = await run_in_threadpool(_read, services, id)
    return json_response(job_body(job))


@router.post("/v1/jobs/{job_id}/cancel")
def cancel_job(job_id: str, services: ServicesDep) -> Response:
    """Withdraw a job: at once while it is queued, at the next decode step once it runs. A final job stays as it is."""
    id = parse_job_id(job_id)
    if services.store.cancel(id, DEFAULT_TENANT) is None:
        raise NotFound
    return json_response(job_body(_read(services, id)))


def _read(services: Services, job_id: UUID) -> JobRecord:
    job = services.store.job(job_id, DEFAULT_TENANT)
    if job is None:
        raise NotFound
    return job
