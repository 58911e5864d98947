"""What was generated, by id, in the words of its endpoint: read, cancelled, deleted.

An id of another endpoint's is unknown here; /v1/jobs knows all of them. Of chats: routes/stored_chats.py.
"""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.auth import CallerDep
from api.jobs.reading import cancel_job, read_job, read_when_reached
from api.jobs.stored_items import input_items, items_page
from api.paging import page_limit
from api.rendering.stored import deleted_body, stored_body
from api.responses import json_response
from api.routes.parameters import After, Limit, Order, Until, Wait
from api.services import ServicesDep
from api.streams.streaming import stream_response
from models.ids import parse_job_id
from models.requests import COMPLETIONS, RESPONSES

router = APIRouter()

Stream = Annotated[bool, Query(description="Answer with the events of the response.")]
StartingAfter = Annotated[int | None, Query(ge=0, lt=2**31, description="Of a stream: only the events behind this.")]


@router.get("/v1/completions/{completion_id}")
async def get_completion(
    completion_id: str,
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    wait: Wait = None,
    until: Until = "terminal",
) -> Response:
    """Read a completion, with its choices once it is completed; with `wait` answer as soon as it ends, or changes."""
    id = parse_job_id(completion_id)
    job = await read_when_reached(request, services, caller.tenant, id, wait=wait, until=until, endpoint=COMPLETIONS)
    return json_response(await run_in_threadpool(stored_body, job))


@router.post("/v1/completions/{completion_id}/cancel")
def cancel_completion(completion_id: str, services: ServicesDep, caller: CallerDep) -> Response:
    """Withdraw a completion: at once while it is queued, at the next decode step once it runs."""
    return json_response(stored_body(cancel_job(services, caller.tenant, parse_job_id(completion_id), COMPLETIONS)))


@router.delete("/v1/completions/{completion_id}")
def delete_completion(completion_id: str, services: ServicesDep, caller: CallerDep) -> Response:
    """Delete a finished completion with its request."""
    services.store.delete(parse_job_id(completion_id), caller.tenant, COMPLETIONS)
    return json_response(deleted_body(completion_id, COMPLETIONS))


@router.get("/v1/responses/{response_id}")
async def get_response(
    response_id: str,
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    wait: Wait = None,
    until: Until = "terminal",
    stream: Stream = False,
    starting_after: StartingAfter = None,
) -> Response:
    """Read a response, with its output once it is completed; with `wait` answer as soon as it ends, or changes."""
    id = parse_job_id(response_id)
    if stream:
        return await stream_response(services, caller, id, starting_after=starting_after)
    job = await read_when_reached(request, services, caller.tenant, id, wait=wait, until=until, endpoint=RESPONSES)
    return json_response(await run_in_threadpool(stored_body, job))


@router.post("/v1/responses/{response_id}/cancel")
def cancel_response(response_id: str, services: ServicesDep, caller: CallerDep) -> Response:
    """Withdraw a response: at once while it is queued, at the next decode step once it runs."""
    return json_response(stored_body(cancel_job(services, caller.tenant, parse_job_id(response_id), RESPONSES)))


@router.delete("/v1/responses/{response_id}")
def delete_response(response_id: str, services: ServicesDep, caller: CallerDep) -> Response:
    """Delete a finished response with its input."""
    services.store.delete(parse_job_id(response_id), caller.tenant, RESPONSES)
    return json_response(deleted_body(response_id, RESPONSES))


@router.get("/v1/responses/{response_id}/input_items")
def list_input_items(
    response_id: str,
    services: ServicesDep,
    caller: CallerDep,
    after: After = None,
    limit: Limit = None,
    order: Order = "desc",
) -> Response:
    """List what a response was given, the latest message first."""
    job = read_job(services, caller.tenant, parse_job_id(response_id), RESPONSES)
    page = items_page(input_items(job), after=after, limit=page_limit(limit), is_descending=order == "desc")
    return json_response(page)
