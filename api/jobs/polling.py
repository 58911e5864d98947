"""Many jobs in one call: where each stands, and a wait for the first of them that gets further."""

from collections.abc import Callable, Collection, Mapping
from uuid import UUID

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from api.rendering.bodies import Json
from api.rendering.jobs import job_body, job_entry
from api.services import Services
from api.waiting import patience_seconds, wanted_seconds
from models.errors import NotFound
from models.ids import parse_job_id
from models.job_requests import PollRequest
from models.records import JobRecord
from models.status import FINAL, Status


async def poll(request: Request, services: Services, tenant: str, wanted: PollRequest) -> Json:
    """The jobs in the order asked for, and the ids that name none. One query reads them, and one a tick waits for them
    together with whoever else waits."""
    ids = {text: _id(text) for text in wanted.ids}
    real = list(dict.fromkeys(id for id in ids.values() if id is not None))
    rows = await run_in_threadpool(services.store.rows, real, tenant)
    seconds = patience_seconds(request.headers, wanted=wanted_seconds(request.headers, wanted.wait))
    reached = _to_wait_for(rows, wanted.until)
    if seconds > 0 and reached:
        await services.watch.wait_for_any(reached, seconds=seconds)
        rows = await run_in_threadpool(services.store.rows, real, tenant)
    if wanted.include:
        rows = await run_in_threadpool(services.store.jobs, real, tenant)
    there = {row.id for row in rows}
    return {
        "object": "list",
        "data": await run_in_threadpool(_shown, rows, wanted.include),
        "unknown": [text for text, id in ids.items() if id not in there],
    }


def _shown(rows: list[JobRecord], include: Collection[str]) -> list[Json]:
    """On a thread: a thousand results with logprobs take seconds, in which nobody else would be answered."""
    return [job_body(row, include) if include else job_entry(row) for row in rows]


def _to_wait_for(rows: list[JobRecord], until: str) -> Mapping[UUID, Callable[[Status], bool]]:
    """What of which job is news. Nothing where there will be none, or where there is already what was waited for."""
    unfinished = [row for row in rows if row.status not in FINAL]
    if until == "change":
        return {row.id: row.status.__ne__ for row in unfinished}
    return {row.id: FINAL.__contains__ for row in unfinished} if len(unfinished) == len(rows) else {}


def _id(text: str) -> UUID | None:
    try:
        return parse_job_id(text)
    except NotFound:
        return None
