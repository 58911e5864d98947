"""Stored chat completions, by id and as a list, as the official client knows them natively."""

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.auth import CallerDep
from api.body import read_json
from api.jobs.reading import cancel_job, read_job, read_when_reached
from api.jobs.stored_items import chat_items, items_page
from api.paging import list_body, metadata_filter, page_limit
from api.rendering.stored import deleted_body, stored_body
from api.responses import json_response
from api.routes.parameters import After, Limit, Order, Until, Wait, cursor_of
from api.services import ServicesDep
from models.ids import parse_job_id
from models.job_requests import MetadataUpdate, read_fields
from models.listing import JobFilter, Page
from models.records import JobChange
from models.requests import CHAT

router = APIRouter()


@router.get("/v1/chat/completions")
def list_chat_completions(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    model: str | None = None,
    after: After = None,
    limit: Limit = None,
    order: Order = "asc",
) -> Response:
    """List chat completions outside batches, oldest first; of one model, or with the pairs of metadata[key]=value.

    Every chat completion is stored, whether or not `store` was set, and listed in whatever state it is.
    """
    wanted = JobFilter(endpoint=CHAT, model=model, metadata=metadata_filter(request.query_params))
    page = Page(page_limit(limit), cursor_of(after), is_descending=order == "desc")
    jobs, has_more = services.store.list_jobs(caller.tenant, wanted, page)
    return json_response(list_body([stored_body(job) for job in jobs], has_more=has_more))


@router.get("/v1/chat/completions/{completion_id}")
async def get_chat_completion(
    completion_id: str,
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    wait: Wait = None,
    until: Until = "terminal",
) -> Response:
    """Read a chat completion, with its choices once completed; with `wait` answer as soon as it ends, or changes."""
    id = parse_job_id(completion_id)
    job = await read_when_reached(request, services, caller.tenant, id, wait=wait, until=until, endpoint=CHAT)
    return json_response(await run_in_threadpool(stored_body, job))


@router.post("/v1/chat/completions/{completion_id}")
async def update_chat_completion(
    completion_id: str, request: Request, services: ServicesDep, caller: CallerDep
) -> Response:
    """Replace the metadata of a chat completion."""
    id = parse_job_id(completion_id)
    metadata = read_fields(MetadataUpdate, await read_json(request)).metadata
    change = JobChange(metadata=metadata, endpoint=CHAT)
    await run_in_threadpool(services.store.change, id, change, caller.tenant)
    return json_response(stored_body(await run_in_threadpool(read_job, services, caller.tenant, id, CHAT)))


@router.post("/v1/chat/completions/{completion_id}/cancel")
def cancel_chat_completion(completion_id: str, services: ServicesDep, caller: CallerDep) -> Response:
    """Withdraw a chat completion: at once while it is queued, at the next decode step once it runs."""
    return json_response(stored_body(cancel_job(services, caller.tenant, parse_job_id(completion_id), CHAT)))


@router.delete("/v1/chat/completions/{completion_id}")
def delete_chat_completion(completion_id: str, services: ServicesDep, caller: CallerDep) -> Response:
    """Delete a finished chat completion with its messages."""
    services.store.delete(parse_job_id(completion_id), caller.tenant, CHAT)
    return json_response(deleted_body(completion_id, CHAT))


@router.get("/v1/chat/completions/{completion_id}/messages")
def list_messages(
    completion_id: str,
    services: ServicesDep,
    caller: CallerDep,
    after: After = None,
    limit: Limit = None,
    order: Order = "asc",
) -> Response:
    """List the messages that a chat completion answered."""
    job = read_job(services, caller.tenant, parse_job_id(completion_id), CHAT)
    page = items_page(chat_items(job), after=after, limit=page_limit(limit), is_descending=order == "desc")
    return json_response(page)
