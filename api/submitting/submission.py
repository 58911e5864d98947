"""From a checked request to a committed job: known model, id, priority, deadline."""

from datetime import UTC, datetime

from api.services import Services
from models.errors import RequestError
from models.generation import MAX_KEY_CHARS
from models.idempotency import Once
from models.ids import uuid7
from models.records import NewJob
from models.requests import DEFAULT_PRIORITY, stored_body
from models.rules import AnyRequest, asked_priority, deadline_of
from models.submitting import Submission, Submitted

SYNC_PRIORITY = 6  # somebody waits on the line


async def new_job(services: Services, tenant: str, endpoint: str, request: AnyRequest) -> NewJob:
    """The job a request asks for. Raises RequestError where it names no model, or none that can be asked."""
    if request.model is None:
        raise RequestError("missing_required_parameter", "model is required", param="model")
    request.model = await services.models.resolve(request.model)
    usual = DEFAULT_PRIORITY if request.background else SYNC_PRIORITY
    asked = asked_priority(request)
    return NewJob(
        id=uuid7(),
        model=request.model,
        endpoint=endpoint,
        body=stored_body(request),
        tenant=tenant,
        priority=usual if asked is None else asked,
        deadline=deadline_of(request, datetime.now(UTC)),
        max_attempts=request.max_attempts,
    )


async def submit(services: Services, job: NewJob, *, once: Once | None, num_bytes: int) -> Submitted:
    """Commit the job, together with what else comes in, and have it announced."""
    return await services.committer.commit(Submission(job, once), num_bytes)


def check_key(key: str) -> str:
    """An Idempotency-Key: 1 to 255 printable ASCII characters."""
    if not (0 < len(key) <= MAX_KEY_CHARS and key.isascii() and key.isprintable()):
        raise RequestError(
            "invalid_idempotency_key",
            f"Idempotency-Key must be 1 to {MAX_KEY_CHARS} printable ASCII characters",
            param="Idempotency-Key",
        )
    return key
