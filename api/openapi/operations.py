"""What each route takes and answers, for the API document: the routes read raw bodies and write raw answers, so the
document is told here, and a test holds every answer of the other tests against it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from api.openapi.schemas import generation, operating, resources
from api.openapi.schemas.base import Deleted
from api.routes.admin import NewKey
from models.batch_requests import BatchRequest, RetryRequest
from models.generation import ChatRequest, CompletionRequest
from models.job_requests import JobPatch, MetadataUpdate, PollRequest
from models.response_request import ResponseRequest

Shape = type[BaseModel]
JSONL, BYTES, EVENTS, TEXT = "application/jsonl", "application/octet-stream", "text/event-stream", "text/plain"

GENERATION, BATCHES, FILES, JOBS, MODELS = "generation", "batches", "files", "jobs", "models"
ADMIN, OPERATION = "administration", "operation"
TAGS = {
    GENERATION: "Completions, chats and responses: at once, in the background, or streamed.",
    BATCHES: "Many requests of one file.",
    FILES: "Inputs and outputs of batches.",
    JOBS: "One view over everything that was submitted.",
    MODELS: "What live workers serve.",
    ADMIN: "Keys and workers; for administrators' keys.",
    OPERATION: "Health, load, limits.",
}

BODY = (400, 408, 413, 415)  # of routes that read one
EVERYWHERE = (500, 503)
ERRORS = {
    400: "The request is not valid; `param` names the field.",
    401: "No API key, or a wrong one.",
    403: "The key's scope does not allow it.",
    404: "There is nothing with this id, or it is not yours.",
    408: "Not finished in time: the job goes on, or the body came too slowly.",
    409: "Its state does not allow it.",
    410: "It was there, and was deleted when the time for which such things are kept was over.",
    413: "The body is too large.",
    415: "The body has a type or a coding that is not read.",
    416: "The range is not in the file.",
    422: "This Idempotency-Key came with another request before.",
    500: "Something went wrong on our side, or the job failed by our fault.",
    503: "The database, or storage, does not answer: try again.",
    507: "The disk is full: try again once there is room.",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `shape`: of the JSON that it answers with; `page`: with a list of such. `more`: media
    types beside or instead of JSON, by status."""

    tag: str
    shape: Shape | tuple[Shape, ...] | None = None
    page: Shape | None = None
    body: Shape | str | None = None  # a name: a schema written by hand in the document
    example: Mapping[str, Any] | None = None
    status: int = 200
    errors: tuple[int, ...] = ()
    more: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    is_optional: bool = False  # the body


CREATES = (*BODY, 404, 409, 410, 422, 507)
STREAMS = {200: (EVENTS,)}
BY_ID = (400, 404, 410)
DELETES = (400, 404, 409)

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("post", "/v1/completions"): Operation(
        GENERATION,
        generation.Completion,
        body=CompletionRequest,
        example={"model": "demo", "prompt": "def add(a, b):", "max_tokens": 32, "temperature": 0},
        errors=CREATES,
        more=STREAMS,
    ),
    ("post", "/v1/chat/completions"): Operation(
        GENERATION,
        generation.ChatCompletion,
        body=ChatRequest,
        example={"model": "demo", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 32},
        errors=CREATES,
        more=STREAMS,
    ),
    ("post", "/v1/responses"): Operation(
        GENERATION,
        generation.Response,
        body=ResponseRequest,
        example={"model": "demo", "input": "Hello!", "background": True},
        errors=CREATES,
        more=STREAMS,
    ),
    ("get", "/v1/completions/{completion_id}"): Operation(GENERATION, generation.Completion, errors=BY_ID),
    ("delete", "/v1/completions/{completion_id}"): Operation(GENERATION, Deleted, errors=DELETES),
    ("post", "/v1/completions/{completion_id}/cancel"): Operation(GENERATION, generation.Completion, errors=BY_ID),
    ("get", "/v1/chat/completions"): Operation(GENERATION, page=generation.ChatCompletion, errors=(400,)),
    ("get", "/v1/chat/completions/{completion_id}"): Operation(GENERATION, generation.ChatCompletion, errors=BY_ID),
    ("post", "/v1/chat/completions/{completion_id}"): Operation(
        GENERATION,
        generation.ChatCompletion,
        body=MetadataUpdate,
        example={"metadata": {"team": "search"}},
        errors=(*BODY, 404, 409, 410, 507),
    ),
    ("delete", "/v1/chat/completions/{completion_id}"): Operation(GENERATION, Deleted, errors=DELETES),
    ("post", "/v1/chat/completions/{completion_id}/cancel"): Operation(
        GENERATION, generation.ChatCompletion, errors=BY_ID
    ),
    ("get", "/v1/chat/completions/{completion_id}/messages"): Operation(
        GENERATION, page=resources.ChatItem, errors=BY_ID
    ),
    ("get", "/v1/responses/{response_id}"): Operation(GENERATION, generation.Response, errors=BY_ID, more=STREAMS),
    ("delete", "/v1/responses/{response_id}"): Operation(GENERATION, Deleted, errors=DELETES),
    ("post", "/v1/responses/{response_id}/cancel"): Operation(GENERATION, generation.Response, errors=BY_ID),
    ("get", "/v1/responses/{response_id}/input_items"): Operation(GENERATION, page=resources.InputItem, errors=BY_ID),
    ("post", "/v1/batches"): Operation(
        BATCHES,
        resources.Batch,
        body=BatchRequest,
        example={"input_file_id": "file-0", "endpoint": "/v1/completions", "completion_window": "24h"},
        errors=CREATES,
    ),
    ("get", "/v1/batches"): Operation(BATCHES, page=resources.Batch, errors=(400,)),
    ("get", "/v1/batches/{batch_id}"): Operation(BATCHES, resources.Batch, errors=BY_ID),
    ("delete", "/v1/batches/{batch_id}"): Operation(BATCHES, Deleted, errors=DELETES),
    ("post", "/v1/batches/{batch_id}/cancel"): Operation(BATCHES, resources.Batch, errors=(*BY_ID, 409)),
    ("get", "/v1/batches/{batch_id}/requests"): Operation(BATCHES, page=resources.Job, errors=BY_ID),
    ("get", "/v1/batches/{batch_id}/results"): Operation(BATCHES, resources.Results, errors=BY_ID),
    ("post", "/v1/batches/{batch_id}/retry_failed"): Operation(
        BATCHES, resources.Batch, body=RetryRequest, example={"priority": 6}, errors=CREATES, is_optional=True
    ),
    ("post", "/v1/files"): Operation(FILES, resources.File, errors=(*BODY, 507)),  # tells its form itself
    ("get", "/v1/files"): Operation(FILES, page=resources.File, errors=(400,)),
    ("get", "/v1/files/{file_id}"): Operation(FILES, resources.File, errors=(404, 410)),
    ("delete", "/v1/files/{file_id}"): Operation(FILES, Deleted, errors=(404, 409)),
    ("get", "/v1/files/{file_id}/content"): Operation(
        FILES, errors=(404, 410, 416), more={200: (JSONL, BYTES), 206: (JSONL, BYTES)}
    ),
    ("post", "/v1/jobs"): Operation(
        JOBS,
        (resources.Job, resources.Jobs),
        body="JobSubmission",
        example={"endpoint": "/v1/completions", "body": {"model": "demo", "prompt": "Hello"}, "priority": 3},
        status=202,
        errors=CREATES,
    ),
    ("get", "/v1/jobs"): Operation(JOBS, page=resources.Job, errors=BY_ID),
    ("post", "/v1/jobs/poll"): Operation(
        JOBS, resources.Polled, body=PollRequest, example={"ids": ["cmpl-0", "resp_0"], "wait": 30}, errors=BODY
    ),
    ("get", "/v1/jobs/{job_id}"): Operation(JOBS, resources.Job, errors=BY_ID),
    ("patch", "/v1/jobs/{job_id}"): Operation(
        JOBS, resources.Job, body=JobPatch, example={"priority": 9}, errors=(*BODY, 404, 409, 410, 507)
    ),
    ("delete", "/v1/jobs/{job_id}"): Operation(JOBS, Deleted, errors=DELETES),
    ("get", "/v1/jobs/{job_id}/result"): Operation(
        JOBS,
        (generation.Completion, generation.ChatCompletion, generation.Response),
        errors=(*BY_ID, 408, 409),
    ),
    ("get", "/v1/jobs/{job_id}/events"): Operation(JOBS, errors=BY_ID, more={200: (EVENTS,), 204: ()}),
    ("post", "/v1/jobs/{job_id}/cancel"): Operation(JOBS, resources.Job, errors=BY_ID),
    ("post", "/v1/jobs/{job_id}/retry"): Operation(JOBS, resources.Job, status=202, errors=CREATES),
    ("get", "/v1/dead_letters"): Operation(JOBS, page=resources.DeadLetter, errors=(400, 404)),
    ("get", "/v1/dead_letters/{dead_letter_id}"): Operation(JOBS, resources.DeadLetter, errors=(404,)),
    ("post", "/v1/dead_letters/{dead_letter_id}/replay"): Operation(
        JOBS, resources.Replay, status=202, errors=(*BODY, 404, 410, 507)
    ),
    ("get", "/v1/models"): Operation(MODELS, operating.Models),
    ("get", "/v1/models/{name}"): Operation(MODELS, operating.Model, errors=(404,)),
    ("get", "/v1/admin/keys"): Operation(ADMIN, page=operating.ApiKey, errors=(400, 403, 404)),
    ("post", "/v1/admin/keys"): Operation(
        ADMIN, operating.NewApiKey, body=NewKey, example={"name": "search"}, errors=(*BODY, 403, 507)
    ),
    ("delete", "/v1/admin/keys/{key_id}"): Operation(ADMIN, Deleted, errors=(403, 404)),
    ("get", "/v1/admin/workers"): Operation(ADMIN, page=operating.Worker, errors=(403,)),
    ("post", "/v1/admin/workers/{worker_id}/drain"): Operation(ADMIN, operating.Worker, errors=(403, 404)),
    ("get", "/v1/queue"): Operation(OPERATION, operating.Queue),
    ("get", "/v1/usage"): Operation(OPERATION, operating.UsageTotals, errors=(400,)),
    ("get", "/v1/limits"): Operation(OPERATION, operating.Limits),
    ("get", "/health"): Operation(OPERATION, operating.Health),
    ("get", "/health/live"): Operation(OPERATION, operating.Health),
    ("get", "/health/ready"): Operation(OPERATION, operating.Readiness),
    ("get", "/version"): Operation(OPERATION, operating.Version),
    ("get", "/metrics"): Operation(OPERATION, more={200: (TEXT,)}),
}
