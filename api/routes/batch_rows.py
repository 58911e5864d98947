"""/v1/batches/{id}/requests, /results and /retry_failed: the rows of a batch, and once more those that failed."""

import time
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.auth import CallerDep
from api.batches.creation import retry_failed
from api.batches.reading import mark_of, read_batch_with_rows, show_batch
from api.body import read_optional_json
from api.paging import list_body, page_limit
from api.rendering.batches import result_line, until_unfinished
from api.rendering.bodies import Json
from api.rendering.jobs import job_body
from api.responses import REPLAYED, json_response
from api.routes.batches import Wait
from api.routes.parameters import After, Limit
from api.services import Services, ServicesDep
from api.submitting.idempotent import once_of
from api.waiting import patience_seconds, wanted_seconds
from models.batch_requests import parse_retry_request
from models.errors import NotFound, RequestError
from models.ids import parse_batch_id, parse_job_id
from models.records import BatchRecord, JobRecord
from models.status import FINAL, FINAL_BATCH, Status

router = APIRouter()

MAX_LINE = 2**31 - 1

AfterSeq = Annotated[
    int, Query(ge=0, le=MAX_LINE, description="The last_seq of the answer before: results after it are given.")
]


@router.get("/v1/batches/{batch_id}/requests")
def list_requests(
    batch_id: str,
    services: ServicesDep,
    caller: CallerDep,
    status: Status | None = None,
    after: After = None,
    limit: Limit = None,
) -> Response:
    """List a batch's rows as job objects, in the order of its lines; all of them or those of one status."""
    batch, size = read_batch_with_rows(services, caller.tenant, parse_batch_id(batch_id)), page_limit(limit)
    line = -1 if after is None else _line_of(services, batch, after)
    rows = services.batches.results(batch.id, after_line=line, limit=size + 1, status=status)
    return json_response(list_body([job_body(row) for row in rows[:size]], has_more=len(rows) > size))


@router.get("/v1/batches/{batch_id}/results")
async def list_results(
    batch_id: str,
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    after_seq: AfterSeq = 0,
    limit: Limit = None,
    wait: Wait = None,
) -> Response:
    """Read results while the batch runs: finished rows in input order, up to the first that is not finished.

    Asked again with `after_seq` = the `last_seq` of the answer before, no result is missed and none comes twice. With
    `wait` an answer without results waits for the next one. `has_more` turns false once all results were given.
    """
    id, size = parse_batch_id(batch_id), page_limit(limit)
    seconds = patience_seconds(request.headers, wanted=wanted_seconds(request.headers, wait))
    ends = time.monotonic() + seconds
    while True:
        batch, rows = await run_in_threadpool(_read_results, services, caller.tenant, id, after_seq, size + 1)
        results = until_unfinished(rows[:size])
        is_over = batch.status in FINAL_BATCH and not rows
        if results or is_over or time.monotonic() >= ends:
            break
        await _next_result(services, batch, rows, ends - time.monotonic())
    return json_response(
        {
            "object": "list",
            "data": await run_in_threadpool(_lines, results),
            "last_seq": results[-1].line if results else after_seq,
            "has_more": batch.status not in FINAL_BATCH or len(results) < len(rows),
            "status": batch.status,
        }
    )


@router.post("/v1/batches/{batch_id}/retry_failed")
async def retry(batch_id: str, request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """Create a new batch of the lines whose rows failed. The body may change priority, window and metadata."""
    id = parse_batch_id(batch_id)
    body = await read_optional_json(request)
    parsed = parse_retry_request(body, strict=services.settings.strict)
    once = once_of(request, body, key=parsed.idempotency_key)
    batch = await run_in_threadpool(read_batch_with_rows, services, caller.tenant, id)
    created = await run_in_threadpool(retry_failed, services, batch, parsed, once)
    shown = await run_in_threadpool(show_batch, services, caller.tenant, created.id)
    return json_response(shown, headers=REPLAYED if created.replayed else {})


def _line_of(services: Services, batch: BatchRecord, after: str) -> int:
    """The line of a row named as a cursor. Raises RequestError."""
    try:
        job = services.store.job(parse_job_id(after), batch.tenant)
    except NotFound:
        job = None
    if job is None or job.line is None or job.batch_id != batch.id:
        raise RequestError("invalid_cursor", "after must be the id of a request of this batch", param="after")
    return job.line


def _read_results(
    services: Services, tenant: str, batch_id: UUID, after_line: int, limit: int
) -> tuple[BatchRecord, list[JobRecord]]:
    """The batch, then its rows: one that is final before they are read gets no further ones."""
    batch = read_batch_with_rows(services, tenant, batch_id)
    return batch, list(services.batches.results(batch_id, after_line=after_line, limit=limit))


def _lines(results: list[JobRecord]) -> list[Json]:
    """On a thread: a page of long results takes a while."""
    return [result_line(row) for row in results]


async def _next_result(services: Services, batch: BatchRecord, rows: list[JobRecord], seconds: float) -> None:
    """Wait for the row that holds the others up; where there is none yet, for the batch to get further."""
    if rows:
        await services.watch.wait(rows[0].id, FINAL.__contains__, seconds=seconds)
    else:
        await services.batch_watch.wait(batch.id, mark_of(batch).__ne__, seconds=seconds)
