"""From a checked request to a committed job: known model, id, priority, deadline, idempotency."""

import hashlib
from datetime import UTC, datetime, timedelta
from uuid import UUID

import orjson

from api.errors import ModelNotFound
from api.services import Services
from models.errors import RequestError
from models.generation import ChatRequest, CompletionRequest
from models.ids import uuid7
from models.records import NewJob
from models.requests import DEFAULT_PRIORITY, stored_body

SYNC_PRIORITY = 6  # somebody waits on the line
MAX_KEY_CHARS = 255


def new_job(endpoint: str, request: CompletionRequest | ChatRequest) -> NewJob:
    """The job a request asks for. Raises RequestError where it names no model."""
    if request.model is None:
        raise RequestError("missing_required_parameter", "model is required", param="model")
    usual = DEFAULT_PRIORITY if request.background else SYNC_PRIORITY
    return NewJob(
        id=uuid7(),
        model=request.model,
        endpoint=endpoint,
        body=stored_body(request),
        priority=usual if request.priority is None else request.priority,
        deadline=datetime.now(UTC) + timedelta(seconds=request.ttl) if request.ttl else None,
    )


def submit(services: Services, job: NewJob, *, key: str | None, body: object) -> tuple[UUID, bool]:
    """Commit the job and have it announced; returns its id, and whether an earlier request had submitted it."""
    check_model(services, job.model)
    if key is None:
        services.store.submit([job])
        submitted = (job.id, False)
    else:
        digest = hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()
        submitted = services.store.submit_once(job, key=check_key(key), path=job.endpoint, body_hash=digest)
    services.broker.announce()
    return submitted


def check_model(services: Services, model: str) -> None:
    """Raise RequestError unless this service was started for the model or some worker announces it."""
    if model == services.settings.model_name:
        return
    if model not in {worker.model for worker in services.store.workers()}:
        raise ModelNotFound(
            "model_not_found", "the model does not exist; GET /v1/models lists what does", param="model"
        )


def check_key(key: str) -> str:
    """An Idempotency-Key: 1 to 255 printable ASCII characters."""
    if not (0 < len(key) <= MAX_KEY_CHARS and key.isascii() and key.isprintable()):
        raise RequestError(
            "invalid_idempotency_key",
            f"Idempotency-Key must be 1 to {MAX_KEY_CHARS} printable ASCII characters",
            param="Idempotency-Key",
        )
    return key
