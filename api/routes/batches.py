"""/v1/batches: many requests at once, created, listed, read, waited for, cancelled, deleted."""

import logging
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.background import BackgroundTask

from api.auth import CallerDep
from api.batches.creation import PURPOSE, create_batch
from api.batches.reading import mark_of, read_batch, show_batch, show_batches
from api.body import read_json
from api.errors import Conflict
from api.paging import list_body, metadata_filter, page_limit
from api.responses import REPLAYED, json_response
from api.routes.parameters import After, Limit
from api.services import Services, ServicesDep
from api.submitting.idempotent import once_of
from api.waiting import patience_seconds, wanted_seconds
from models.batch_requests import parse_batch_request
from models.errors import BatchmillError, FileInUse, NotFound, RequestError
from models.ids import parse_batch_id, public_id
from models.records import BatchMark, BatchRecord
from models.status import FINAL_BATCH, BatchStatus

log = logging.getLogger(__name__)

router = APIRouter()

MAX_INLINE_CANCEL = 5000  # rows cancelled before the answer; those of a larger batch right after it
STOPPED = (BatchStatus.CANCELLING, BatchStatus.CANCELLED)

Wait = Annotated[
    float | None,
    Query(ge=0, allow_inf_nan=False, description="Seconds to wait for the batch; 60 at most. Also as Prefer: wait=n."),
]
Until = Annotated[
    Literal["terminal", "change"],
    Query(description="What to wait for: the end, or any change of status or counts."),
]


@router.post("/v1/batches")
async def create(request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """Create a batch of a file of requests, or of up to 1,000 requests in the body itself."""
    body = await read_json(request)
    parsed = parse_batch_request(body, strict=services.settings.strict)
    once = once_of(request, body, key=parsed.idempotency_key)
    created = await run_in_threadpool(create_batch, services, caller.tenant, parsed, once)
    shown = await run_in_threadpool(show_batch, services, caller.tenant, created.id)
    return json_response(shown, headers=REPLAYED if created.replayed else {})


@router.get("/v1/batches")
def list_batches(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    after: After = None,
    limit: Limit = None,
    status: BatchStatus | None = None,
) -> Response:
    """List batches, newest first; of one status, or with the pairs given as metadata[key]=value."""
    size = page_limit(limit)
    try:
        found = services.batches.list(
            caller.tenant,
            after=None if after is None else parse_batch_id(after),
            limit=size + 1,
            status=status,
            metadata=metadata_filter(request.query_params),
        )
    except NotFound:
        raise RequestError("invalid_cursor", "after must be the id of a batch", param="after") from None
    return json_response(list_body(show_batches(services, found[:size]), has_more=len(found) > size))


@router.get("/v1/batches/{batch_id}")
async def get_batch(
    batch_id: str,
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    wait: Wait = None,
    until: Until = "terminal",
) -> Response:
    """Read a batch; with `wait` answer as soon as it ends, or gets further."""
    id = parse_batch_id(batch_id)
    seconds = patience_seconds(request.headers, wanted=wanted_seconds(request.headers, wait))
    if seconds > 0:
        batch = await run_in_threadpool(read_batch, services, caller.tenant, id)
        if batch.status not in FINAL_BATCH:
            reached = _is_final if until == "terminal" else mark_of(batch).__ne__
            await services.batch_watch.wait(id, reached, seconds=seconds)
    return json_response(await run_in_threadpool(show_batch, services, caller.tenant, id))


@router.post("/v1/batches/{batch_id}/cancel")
def cancel_batch(batch_id: str, services: ServicesDep, caller: CallerDep) -> Response:
    """Cancel what is not done: queued rows at once, running ones at the next decode step. Results so far are kept."""
    id = parse_batch_id(batch_id)
    batch = read_batch(services, caller.tenant, id)
    services.batches.begin_cancel(id, caller.tenant)
    is_large = batch.num_unfinished > MAX_INLINE_CANCEL
    if not is_large:
        services.batches.cancel_rows(id)
    batch = read_batch(services, caller.tenant, id)
    if batch.status not in STOPPED:
        raise Conflict("batch_not_cancellable", f"the batch is {batch.status}: only a live one can be cancelled")
    shown = show_batch(services, caller.tenant, id)
    return json_response(shown, background=BackgroundTask(_cancel_rows, services, id) if is_large else None)


@router.delete("/v1/batches/{batch_id}")
def delete_batch(
    batch_id: str,
    services: ServicesDep,
    caller: CallerDep,
    files: Annotated[bool, Query(description="Delete the input file as well, unless another batch needs it.")] = False,
) -> Response:
    """Delete a final batch with its rows, results and output files."""
    id = parse_batch_id(batch_id)
    batch = read_batch(services, caller.tenant, id)
    services.batches.delete(id, caller.tenant)
    if files:
        _delete_input(services, batch)
    return json_response({"id": public_id("batch", id), "object": "batch", "deleted": True})


def _is_final(mark: BatchMark) -> bool:
    return mark.status in FINAL_BATCH


def _cancel_rows(services: Services, batch_id: UUID) -> None:
    """After the answer; what is left undone the keepers of the workers go on with."""
    try:
        services.batches.cancel_rows(batch_id)
    except BatchmillError as error:
        log.warning("cancelling goes on in a worker: %s", error, extra={"action": "cancel_interrupted"})


def _delete_input(services: Services, batch: BatchRecord) -> None:
    """Delete the uploaded input; one that is gone, or that feeds another batch, is left alone."""
    if batch.input_file_id is None:
        return
    try:
        file = services.files.delete(batch.input_file_id, batch.tenant)
    except (NotFound, FileInUse):
        return
    if file.purpose == PURPOSE:
        services.blobs.delete(file.id)
