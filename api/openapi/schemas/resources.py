"""Batches, files, jobs, models and what else has an id."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from api.openapi.schemas.base import (
    BatchStatus,
    Endpoint,
    JobError,
    JobStatus,
    Metadata,
    TokenUsage,
    UnixSeconds,
    Usage,
)
from api.openapi.schemas.generation import ChatCompletion, Completion, Response


class Timings(BaseModel):
    """Milliseconds: waiting until the last claim, and what the worker measured."""

    queue_ms: float | None
    prefill_ms: float | None
    decode_ms: float | None
    ttft_ms: float | None


class JobRow(BaseModel):
    """Where a job stands, as its row alone says."""

    id: str
    object: Literal["job"]
    endpoint: str
    model: str
    status: JobStatus
    status_reason: str | None
    priority: Annotated[int, Field(ge=0, le=9, description="9 is served first.")]
    attempts: int
    max_attempts: int | None
    suspicion: Annotated[
        int,
        Field(description="Workers that crashed over it, or over what it repeats: then it runs with fewer others."),
    ]
    solo_crashes: Annotated[int, Field(description="How many of these crashes came while it ran alone; two end it.")]
    batch_id: str | None
    custom_id: str | None
    created_at: UnixSeconds
    started_at: UnixSeconds | None
    finished_at: UnixSeconds | None
    expires_at: UnixSeconds | None
    worker_id: str | None
    error: JobError | None
    replayed_as: Annotated[str | None, Field(description="Of a dead letter: the job that does its work over again.")]


class Job(JobRow):
    """One submission: the same view of completions, chats, responses and rows of batches."""

    usage: Usage | None
    timings: Timings
    metadata: Metadata
    retry_of: str | None
    queue_position: Annotated[int | None, Field(description="Jobs before it; null unless it is queued.")] = None
    request: Annotated[dict[str, Any] | None, Field(description="With include=request: the body as stored.")] = None
    result: Annotated[
        Completion | ChatCompletion | Response | None, Field(description="With include=result, once completed.")
    ] = None


class DeadLetter(JobRow):
    """A job that failed though its request was sound. Neither its prompt nor what it had of an answer is told."""

    tenant: str


class Replay(JobRow):
    """The job that does a dead letter's work over again."""

    retry_of: Annotated[str, Field(description="The dead letter; of one replayed before, the last of its replays.")]


class Jobs(BaseModel):
    """Jobs that were submitted together."""

    object: Literal["list"]
    data: list[Job]
    first_id: str
    last_id: str
    has_more: bool


class BatchError(BaseModel):
    """What is wrong with an input file."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class BatchErrors(BaseModel):
    """Why a batch failed as a whole."""

    object: Literal["list"]
    data: list[BatchError]


class RequestCounts(BaseModel):
    """OpenAI's counts: as there `failed` is without those that expired or were cancelled."""

    total: int
    completed: int
    failed: int


class Counts(BaseModel):
    """Requests by status."""

    queued: int
    running: int
    completed: int
    failed: int
    cancelled: int
    expired: int


class Progress(BaseModel):
    """How far a batch is. Null where there is nothing to judge by."""

    fraction: float | None
    tokens_generated: int
    tokens_per_second: float | None
    eta_seconds: float | None


class FirstError(BaseModel):
    """One of the five commonest errors of failed rows."""

    code: str
    message: str
    count: int


class Batch(BaseModel):
    """Many requests of one file."""

    id: str
    object: Literal["batch"]
    endpoint: Endpoint
    model: str | None
    errors: BatchErrors | None
    input_file_id: str | None
    completion_window: str | None
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: UnixSeconds
    in_progress_at: UnixSeconds | None
    expires_at: UnixSeconds | None
    finalizing_at: UnixSeconds | None
    completed_at: UnixSeconds | None
    failed_at: UnixSeconds | None
    expired_at: UnixSeconds | None
    cancelling_at: UnixSeconds | None
    cancelled_at: UnixSeconds | None
    request_counts: RequestCounts
    usage: TokenUsage
    metadata: Metadata
    priority: int
    max_attempts: int | None
    counts: Counts
    progress: Progress
    status_reason: str | None
    first_errors: list[FirstError] | None
    partial_output_file_id: Annotated[str | None, Field(description="The output so far, while the batch runs.")]


class LineResponse(BaseModel):
    """What the endpoint would have answered."""

    status_code: int
    request_id: str
    body: dict[str, Any]


class Line(BaseModel):
    """A finished row, as in the output or the error file."""

    seq: Annotated[int, Field(description="Its line in the input, from 1.")]
    id: str
    custom_id: str | None
    line: int | None = None
    response: LineResponse | None
    error: JobError | None


class Results(BaseModel):
    """Finished rows in input order, up to the first that is not finished."""

    object: Literal["list"]
    data: list[Line]
    last_seq: Annotated[int, Field(description="Give it as after_seq to go on.")]
    has_more: bool
    status: BatchStatus


class Polled(BaseModel):
    """Jobs in the order asked for."""

    object: Literal["list"]
    data: list[Job | JobRow]
    unknown: Annotated[list[str], Field(description="Ids that name no job of yours.")]


class File(BaseModel):
    """Bytes that were uploaded, or a batch's output."""

    id: str
    object: Literal["file"]
    bytes: Annotated[int | None, Field(description="Null for an output that nobody has read to its end yet.")]
    created_at: UnixSeconds
    filename: str
    purpose: str
    status: Literal["uploaded", "processed", "error"]
    status_details: str | None
    expires_at: UnixSeconds | None


class ChatItem(BaseModel):
    """A message that a chat completion answered."""

    id: str
    role: str
    content: str
    name: str | None = None
    content_parts: None


class InputPart(BaseModel):
    """Text of an input item."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[dict[str, Any]] = []
    logprobs: list[dict[str, Any]] = []


class InputItem(BaseModel):
    """A message that a response was given."""

    id: str
    type: Literal["message"]
    role: str
    status: Literal["completed"]
    content: list[InputPart]
