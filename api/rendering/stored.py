"""Stored jobs in the words of their endpoint: what a client reads that comes back for them by id."""

from api.rendering.bodies import Json, background_body, error_entry, error_of
from api.rendering.jobs import metadata_of
from api.rendering.responses import response_body
from models.records import JobRecord
from models.requests import CHAT, COMPLETIONS, RESPONSES
from models.status import FINAL, Status

_DELETED = {COMPLETIONS: "text_completion.deleted", CHAT: "chat.completion.deleted", RESPONSES: "response"}


def stored_body(job: JobRecord) -> Json:
    """What the endpoint answered, or will: with its status, its metadata, and why there is no result, if so."""
    if job.endpoint == RESPONSES:
        return response_body(job)
    body = background_body(job) | {"metadata": metadata_of(job)}
    if job.status in FINAL - {Status.COMPLETED}:
        body["error"] = error_entry(error_of(job))
    return body


def deleted_body(id: str, endpoint: str) -> Json:
    """What is said of something that was deleted, under the id it was asked for by."""
    return {"id": id, "object": _DELETED[endpoint], "deleted": True}
