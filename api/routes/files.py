"""/v1/files: upload, read, list, delete, download."""

from dataclasses import replace
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import WithJsonSchema

from api.auth import Caller, CallerDep
from api.files.content import MAX_LINES_MEASURED, batch_file, download, measure
from api.files.form import FIELDS, MAX_EXPIRY_SECONDS, MIN_EXPIRY_SECONDS, PURPOSES, check_listed_purpose, new_file
from api.files.uploads import Patience, read_form
from api.paging import list_body, page_limit
from api.rendering.files import file_body
from api.responses import json_response
from api.services import Services, ServicesDep
from models.blobs import BlobWriter
from models.errors import NotFound, RequestError, ResultExpired
from models.ids import parse_file_id, public_id, uuid7
from models.records import FileRecord, NewFile

router = APIRouter(tags=["files"])
PATIENCE = Patience()
MAX_LISTED = 10_000

Limit = Annotated[
    str | None, WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAX_LISTED, "default": MAX_LISTED})
]
UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["purpose", "file"],
                    "properties": {
                        "purpose": {"type": "string", "enum": list(PURPOSES)},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": MIN_EXPIRY_SECONDS,
                            "maximum": MAX_EXPIRY_SECONDS,
                        },
                        "file": {"type": "string", "format": "binary"},
                    },
                }
            }
        },
    }
}


@router.post("/v1/files", openapi_extra=UPLOAD)
async def create_file(request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """Upload a file: it streams to the storage, and is there once this answers."""
    return json_response(file_body(await _upload(request, services, caller)))


@router.get("/v1/files")
def list_files(
    services: ServicesDep,
    caller: CallerDep,
    limit: Limit = None,
    after: str | None = None,
    order: Annotated[Literal["asc", "desc"], Query(description="By time of creation.")] = "desc",
    purpose: str | None = None,
) -> Response:
    """List files, the newest first."""
    number = page_limit(limit, default=MAX_LISTED, most=MAX_LISTED)
    check_listed_purpose(purpose)
    found = services.files.list(
        caller.tenant, purpose=purpose, after=_cursor(after), limit=number + 1, newest_first=order == "desc"
    )
    return json_response(list_body([file_body(file) for file in found[:number]], has_more=len(found) > number))


@router.get("/v1/files/{file_id}")
def get_file(file_id: str, services: ServicesDep, caller: CallerDep) -> Response:
    """Read what a file is. The output of a batch that still runs has the status `uploaded`."""
    file = _find(services, caller, file_id)
    if file.batch_id is not None and file.bytes is None:
        stream = batch_file(services, file)
        if stream.is_whole and stream.num_lines <= MAX_LINES_MEASURED:
            file = replace(file, bytes=measure(services, file, stream))
    return json_response(file_body(file))


@router.get("/v1/files/{file_id}/content")
async def get_file_content(file_id: str, request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """Download a file, or a range of it. Of a batch that still runs: what it has so far, in input order."""
    file = await run_in_threadpool(_find, services, caller, file_id)
    return await download(services, file, request.headers)


@router.delete("/v1/files/{file_id}")
def delete_file(file_id: str, services: ServicesDep, caller: CallerDep) -> Response:
    """Delete a file and its bytes; refused while a batch that is not final reads or writes it."""
    file = services.files.delete(parse_file_id(file_id), caller.tenant)
    if file.batch_id is None:
        services.blobs.delete(file.id)
    return json_response({"id": public_id("file", file.id), "object": "file", "deleted": True})


async def _upload(request: Request, services: Services, caller: Caller) -> FileRecord:
    """Store the bytes, then the row. Whatever goes wrong before the row is there leaves nothing."""
    id = uuid7()
    writer = await run_in_threadpool(services.blobs.writer, id)
    try:
        form = await read_form(
            request,
            writer.write,
            fields=FIELDS,
            max_file_bytes=services.settings.max_file_bytes,
            strict=services.settings.strict,
            patience=PATIENCE,
        )
        new = new_file(id, caller.tenant, form)
    except BaseException:
        await run_in_threadpool(writer.discard)
        raise
    return await run_in_threadpool(_keep, services, writer, new)


def _keep(services: Services, writer: BlobWriter, new: NewFile) -> FileRecord:
    writer.commit()
    try:
        return services.files.create(new)
    except BaseException:
        writer.discard()
        raise


def _find(services: Services, caller: Caller, file_id: str) -> FileRecord:
    id = parse_file_id(file_id)
    file = services.files.get(id, caller.tenant)
    if file is None:
        raise ResultExpired if services.files.has_expired(id, caller.tenant) else NotFound
    return file


def _cursor(after: str | None) -> UUID | None:
    if after is None:
        return None
    try:
        return parse_file_id(after)
    except NotFound:
        raise RequestError(
            "invalid_cursor", "after must be the id of a file of this list that was not deleted", param="after"
        ) from None
