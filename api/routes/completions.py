"""POST /v1/completions and /v1/chat/completions: check, store, announce, answer; or wait on the queue first."""

from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.body import read_json
from api.endings import completed
from api.rendering import background_body
from api.responses import json_response
from api.services import Services, ServicesDep
from api.submission import new_job, submit
from api.waiting import patience_seconds, unless_gone
from models.errors import NotFound
from models.records import JobRecord
from models.requests import parse_request
from models.status import FINAL

router = APIRouter()

CLIENT_GONE = 499  # nobody reads this answer; the access log does


@router.post("/v1/completions")
async def create_completion(request: Request, services: ServicesDep) -> Response:
    """Complete a prompt: at once queued with `background`, else when it is done."""
    return await _generate(request, services, "/v1/completions")


@router.post("/v1/chat/completions")
async def create_chat_completion(request: Request, services: ServicesDep) -> Response:
    """Answer a chat: at once queued with `background`, else when it is done."""
    return await _generate(request, services, "/v1/chat/completions")


async def _generate(request: Request, services: Services, endpoint: str) -> Response:
    body = await read_json(request)
    parsed = parse_request(endpoint, body)
    key = request.headers.get("idempotency-key")
    job = new_job(endpoint, parsed)
    job_id, replayed = await run_in_threadpool(submit, services, job, key=key, body=body)
    headers = {"idempotent-replayed": "true"} if replayed else {}
    if parsed.background:
        return json_response(background_body(await run_in_threadpool(_read, services, job_id)), headers=headers)
    stored = await _finished(request, services, job_id, may_cancel=key is None)
    if stored is None:
        return Response(status_code=CLIENT_GONE)
    return json_response(background_body(completed(stored)), headers=headers)


async def _finished(request: Request, services: Services, job_id: UUID, *, may_cancel: bool) -> JobRecord | None:
    """Wait for the job; None when the client hung up, which cancels a job that only it knows of."""
    most = services.settings.sync_timeout_seconds
    seconds = patience_seconds(request.headers, wanted=most, most=most)

    def forget() -> None:
        if may_cancel:
            services.store.cancel(job_id)

    waiting = services.watch.wait(job_id, FINAL.__contains__, seconds=seconds)
    reached = await unless_gone(request, waiting, on_gone=forget)
    return None if reached is None else await run_in_threadpool(_read, services, job_id)


def _read(services: Services, job_id: UUID) -> JobRecord:
    job = services.store.job(job_id)
    if job is None:
        raise NotFound
    return job
