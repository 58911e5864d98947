"""GET /v1/jobs/{id}/events: what becomes of a job, as it happens."""

from typing import Annotated

from fastapi import APIRouter, Header, Response

from api.auth import CallerDep
from api.rendering.job_events import Cursor
from api.services import ServicesDep
from api.streams.streaming import stream_job
from models.ids import parse_job_id

router = APIRouter()

LastEventId = Annotated[
    str | None, Header(description="The id of the last event that was read: the stream goes on behind it.")
]


@router.get("/v1/jobs/{job_id}/events")
async def get_job_events(
    job_id: str, services: ServicesDep, caller: CallerDep, last_event_id: LastEventId = None
) -> Response:
    """Listen to a job: `status` with each change, `delta` with each piece of text, and `job` at the end, whole."""
    id = parse_job_id(job_id)
    return await stream_job(services, caller, id, Cursor.parse(last_event_id))
