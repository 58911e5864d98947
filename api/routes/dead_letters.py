"""/v1/dead_letters: jobs that failed though their request was sound, and once more what they were to do.

Everyone has their own; an administrator's key sees and replays those of every tenant.
"""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.auth import Caller, CallerDep
from api.body import read_optional_json
from api.jobs.creation import job_again
from api.paging import list_body, page_limit
from api.rendering.dead_letters import dead_letter_body, replay_body
from api.responses import REPLAYED, json_response
from api.routes.parameters import After, Limit, cursor_of
from api.services import Services, ServicesDep
from models.dead_letters import DeadLetterFilter
from models.errors import NotFound
from models.faults import OurFault
from models.ids import parse_batch_id, parse_job_id

router = APIRouter()

ACCEPTED = 202

Replayed = Annotated[
    bool | None, Query(description="Only those that were replayed, or only those that nobody replayed.")
]


@router.get("/v1/dead_letters")
def list_dead_letters(
    services: ServicesDep,
    caller: CallerDep,
    model: str | None = None,
    error_code: OurFault | None = None,
    batch_id: str | None = None,
    replayed: Replayed = None,
    after: After = None,
    limit: Limit = None,
) -> Response:
    """List jobs that failed though their request was sound, rows of batches too: the last to fail first.

    An administrator's key lists those of every tenant.
    """
    wanted = DeadLetterFilter(
        model=model,
        error_code=error_code,
        batch_id=None if batch_id is None else _batch(services, caller, batch_id),
        is_replayed=replayed,
    )
    size, cursor = page_limit(limit), cursor_of(after)
    found, has_more = services.dead_letters.page(_whose(caller), wanted, after=cursor, limit=size)
    return json_response(list_body([dead_letter_body(job) for job in found], has_more=has_more))


@router.get("/v1/dead_letters/{dead_letter_id}")
def get_dead_letter(dead_letter_id: str, services: ServicesDep, caller: CallerDep) -> Response:
    """Read a dead letter. 404 for any other job: those are read at /v1/jobs."""
    job = services.dead_letters.find(parse_job_id(dead_letter_id), _whose(caller))
    if job is None:
        raise NotFound
    return json_response(dead_letter_body(job))


@router.post("/v1/dead_letters/{dead_letter_id}/replay", status_code=ACCEPTED)
async def replay_dead_letter(
    dead_letter_id: str, request: Request, services: ServicesDep, caller: CallerDep
) -> Response:
    """Do a dead letter's work over again, as a new job of its owner's that runs alone if the first one crashed workers.

    Replaying it once more answers with that same job, unless it was deleted or is a dead letter too.
    """
    id = parse_job_id(dead_letter_id)
    await read_optional_json(request)
    submitted = await run_in_threadpool(services.dead_letters.replay, id, _whose(caller), job_again)
    services.broker.announce()
    job = await run_in_threadpool(services.store.job, submitted.id, _whose(caller))
    if job is None:  # deleted since
        raise NotFound
    return json_response(replay_body(job), ACCEPTED, headers=REPLAYED if submitted.replayed else {})


def _whose(caller: Caller) -> str | None:
    """The tenant whose dead letters a caller may see; None: everyone's."""
    return None if caller.is_admin else caller.tenant


def _batch(services: Services, caller: Caller, text: str) -> UUID:
    """The batch of a filter. Raises NotFound."""
    batch_id = parse_batch_id(text)
    if services.batches.get(batch_id, _whose(caller)) is None:
        raise NotFound
    return batch_id
