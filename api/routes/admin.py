"""/v1/admin: API keys and workers, for administrators' keys alone."""

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.auth import AdminDep
from api.body import read_json
from api.paging import list_body, page_limit
from api.rendering.bodies import seconds
from api.rendering.keys import key_body
from api.responses import json_response
from api.services import ServicesDep
from models.errors import NotFound, RequestError
from models.records import WorkerRecord
from models.refusals import first_error

router = APIRouter()

MAX_KEY_SECONDS = 10 * 365 * 24 * 3600


class NewKey(BaseModel):
    """The body of POST /v1/admin/keys."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    name: str
    is_admin: bool = False
    expires_in_seconds: Annotated[int, Field(ge=1, le=MAX_KEY_SECONDS)] | None = None


@router.get("/v1/admin/keys")
def list_keys(caller: AdminDep, services: ServicesDep, after: str | None = None, limit: str | None = None) -> Response:
    """List the keys of every tenant, newest first; never a key itself."""
    most = page_limit(limit)
    try:
        found = services.keys.list(after=after, limit=most + 1)
    except NotFound:
        raise RequestError("invalid_cursor", "after must be the id of a key", param="after") from None
    return json_response(list_body([key_body(key) for key in found[:most]], has_more=len(found) > most))


@router.post("/v1/admin/keys")
async def create_key(request: Request, caller: AdminDep, services: ServicesDep) -> Response:
    """Make a key for the tenant `name`. This answer holds it, and nothing ever again."""
    wanted = _parse_new_key(await read_json(request))
    lasts = None if wanted.expires_in_seconds is None else timedelta(seconds=wanted.expires_in_seconds)
    key, record = await run_in_threadpool(services.keys.create, wanted.name, is_admin=wanted.is_admin, lasts=lasts)
    services.keyring.forget()
    return json_response(key_body(record) | {"key": key}, headers={"cache-control": "no-store"})


@router.delete("/v1/admin/keys/{key_id}")
async def revoke_key(key_id: str, caller: AdminDep, services: ServicesDep) -> Response:
    """Have a key refused: at once here, within seconds by other processes of the service."""
    if await run_in_threadpool(services.keys.revoke, key_id) is None:
        raise NotFound
    services.keyring.forget()
    return json_response({"id": key_id, "object": "api_key", "deleted": True})


@router.get("/v1/admin/workers")
def list_workers(caller: AdminDep, services: ServicesDep) -> Response:
    """List the live workers and what each runs on."""
    found = [_worker_body(worker) for worker in services.store.workers()]
    return json_response(list_body(found, has_more=False))


@router.post("/v1/admin/workers/{worker_id}/drain")
def drain_worker(worker_id: str, caller: AdminDep, services: ServicesDep) -> Response:
    """Have a worker finish what it holds, claim nothing more, and end, as SIGTERM would; it hears of it within seconds.
    What it cannot finish in its grace time it gives back."""
    try:
        id = UUID(worker_id)
    except ValueError:
        raise NotFound from None
    return json_response(_worker_body(services.store.drain_worker(id)))


def _parse_new_key(body: object) -> NewKey:
    try:
        return NewKey.model_validate(body)
    except ValidationError as error:
        raise first_error(error) from None


def _worker_body(worker: WorkerRecord) -> dict[str, object]:
    return {
        "id": worker.id.hex,
        "object": "worker",
        "host": worker.hostname,
        "pid": worker.pid,
        "slot": worker.slot,
        "model": worker.model,
        "state": worker.state,
        "rows": worker.rows,
        "max_model_len": worker.max_model_len,
        "dtype": worker.dtype,
        "device": worker.device,
        "started_at": seconds(worker.started_at),
        "heartbeat_at": seconds(worker.heartbeat_at),
    }
