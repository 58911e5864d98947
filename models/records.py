"""What goes into the store and what comes out of it: frozen dataclasses, no queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from models.packing import dump_json, load_json
from models.requests import DEFAULT_PRIORITY
from models.status import BatchStatus, Status

DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed: a stable code and a sentence for its user."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be stored. With `error` it is refused: stored failed, never queued."""

    id: UUID
    model: str
    endpoint: str
    body: Mapping[str, Any]
    tenant: str = DEFAULT_TENANT
    priority: int = DEFAULT_PRIORITY
    custom_id: str | None = None
    batch_id: UUID | None = None
    line: int | None = None
    deadline: datetime | None = None
    error: JobError | None = None
    max_attempts: int | None = None  # None: the worker's setting
    suspicion: int = 0  # of one that repeats a suspect
    level: int = 0  # the same: models.suspects.Level


@dataclass(frozen=True, slots=True)
class CompletionRecord:
    """One choice of a completed job.

    `logprobs` are natural logs of the chosen tokens under the untempered softmax; None where a token has none.
    """

    choice_index: int
    text: str
    token_ids: Sequence[int]
    finish_reason: str
    prompt_tokens: int
    output_tokens: int
    logprobs: Sequence[float | None] | None = None
    prompt_token_ids: Sequence[int] | None = None
    details: Mapping[str, Any] | None = None
    seed: int | None = None
    fingerprint: str | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A stored job. `completions` is empty unless the status is completed."""

    id: UUID
    tenant: str
    batch_id: UUID | None
    line: int | None
    custom_id: str | None
    endpoint: str
    model: str
    priority: int
    suspicion: int
    status: Status
    attempt: int
    cancel_requested: bool
    deadline: datetime | None
    error: JobError | None
    created_at: datetime
    published_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    owner: UUID | None = None
    max_attempts: int | None = None
    level: int = 0  # models.suspects.Level
    solo_crashes: int = 0
    replayed_as: UUID | None = None
    payload: str = "{}"
    completions: tuple[CompletionRecord, ...] = ()
    input_expired: bool = False  # retention took the prompt out of the body
    is_expired: bool = False  # retention deleted body and completions; the rest tells where the job ended

    @property
    def body(self) -> dict[str, Any]:
        """The request body; decoded at each access, as a list of results seldom needs it."""
        return dict(load_json(self.payload))


@dataclass(frozen=True, slots=True)
class JobChange:
    """What is to be changed of a stored job; None stays as it is. The deadline becomes `ttl_seconds` from now.

    With `endpoint` a job of another one is as good as not there.
    """

    priority: int | None = None
    ttl_seconds: int | None = None
    metadata: Mapping[str, str] | None = None
    endpoint: str | None = None


def queued_record(job: NewJob, created_at: datetime) -> JobRecord:
    """A job that was just stored, as reading it back would give it."""
    return JobRecord(
        id=job.id,
        tenant=job.tenant,
        batch_id=job.batch_id,
        line=job.line,
        custom_id=job.custom_id,
        endpoint=job.endpoint,
        model=job.model,
        priority=job.priority,
        suspicion=job.suspicion,
        level=job.level,
        status=Status.QUEUED,
        attempt=0,
        cancel_requested=False,
        deadline=job.deadline,
        error=None,
        created_at=created_at,
        published_at=None,
        started_at=None,
        finished_at=None,
        max_attempts=job.max_attempts,
        payload=dump_json(job.body),
    )


@dataclass(frozen=True, slots=True)
class Hint:
    """A queued job that is ready to be announced to the workers of its model."""

    id: UUID
    model: str
    priority: int
    suspicion: int


@dataclass(frozen=True, slots=True)
class Line:
    """The unannounced rows of one model, owner and priority; of the oldest how long it waited, and whether a worker
    gave it back."""

    model: str
    tenant: str
    priority: int
    waited_seconds: float
    is_given_back: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """A line with the priority at which rows of it are to be announced; those only that waited so long."""

    line: Line
    priority: int
    waited_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch to be stored. Without a completion window its rows never expire."""

    id: UUID
    endpoint: str
    model: str | None = None
    tenant: str = DEFAULT_TENANT
    fingerprint: str | None = None
    input_file_id: UUID | None = None
    completion_window_seconds: int | None = None
    priority: int = DEFAULT_PRIORITY
    metadata: Mapping[str, str] = field(default_factory=dict)
    output_expires_after_seconds: int | None = None
    completion_window: str | None = None  # the window as its submitter wrote it
    max_attempts: int | None = None  # of each row; None: the worker's setting


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A stored batch: its status, its counts, how far its input was read, its times."""

    id: UUID
    tenant: str
    endpoint: str
    model: str | None
    status: BatchStatus
    fingerprint: str | None
    input_file_id: UUID | None
    completion_window_seconds: int | None
    priority: int
    metadata: Mapping[str, str]
    errors: Sequence[Mapping[str, Any]]
    num_total: int
    num_completed: int
    num_failed: int
    num_cancelled: int
    num_expired: int
    prompt_tokens: int
    output_tokens: int
    num_lines_read: int
    num_bytes_read: int
    created_at: datetime
    expires_at: datetime | None
    in_progress_at: datetime | None
    finalizing_at: datetime | None
    completed_at: datetime | None
    failed_at: datetime | None
    expired_at: datetime | None
    cancelling_at: datetime | None
    cancelled_at: datetime | None
    output_file_id: UUID | None  # None: made before there were such files
    error_file_id: UUID | None
    output_expires_after_seconds: int | None
    num_requests: int | None  # what validation counted
    input_read: bool  # every line is a row
    intake_owner: UUID | None  # the worker that reads the input
    completion_window: str | None  # as its submitter wrote it
    max_attempts: int | None  # of each row; None: the worker's setting
    results_expired_at: datetime | None = None  # from then on there are no rows to read
    results_deleted_at: datetime | None = None  # none of them is stored any more

    @property
    def num_unfinished(self) -> int:
        """Rows that are still queued or in progress."""
        done = self.num_completed + self.num_failed + self.num_cancelled + self.num_expired
        return self.num_total - done


@dataclass(frozen=True, slots=True)
class BatchMark:
    """How far a batch is, for whoever waits for it to get further."""

    status: BatchStatus
    num_total: int
    num_completed: int
    num_failed: int
    num_cancelled: int
    num_expired: int


@dataclass(frozen=True, slots=True)
class NewFile:
    """An upload to be stored, its bytes being in place."""

    id: UUID
    tenant: str
    purpose: str
    filename: str
    bytes: int
    expires_after_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """How many rows of a batch failed with a code, and what the first of them said."""

    code: str
    message: str
    count: int


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file: bytes that were uploaded, or (with `batch_id`) a stream over a batch's rows.

    `bytes` is None for a stream that nobody has measured yet.
    """

    id: UUID
    tenant: str
    purpose: str
    filename: str
    bytes: int | None
    status: str
    status_details: str | None
    created_at: datetime
    expires_at: datetime | None
    batch_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key as stored: the key itself is not."""

    id: str
    tenant: str
    digest: bytes
    is_admin: bool
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """One incarnation of a worker: `slot` names its place (host and device), `id` this very process."""

    id: UUID
    slot: str
    hostname: str
    pid: int
    model: str
    state: str = "ready"
    rows: int = 0
    max_model_len: int = 0
    dtype: str = ""
    device: str = ""
    started_at: datetime | None = None
    heartbeat_at: datetime | None = None
    lease_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job this worker now owns, for this attempt, while its lease lasts."""

    id: UUID
    attempt: int
    endpoint: str
    model: str
    body: Mapping[str, Any]
    priority: int
    deadline: datetime | None
    suspicion: int
    tenant: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attempt: completed with completions, or failed, cancelled, expired."""

    id: UUID
    attempt: int
    status: Status
    completions: tuple[CompletionRecord, ...] = ()
    error: JobError | None = None
    num_prompts: int = 1  # each with as many completions

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, each counted once however many completions it has."""
        per_prompt = max(len(self.completions) // self.num_prompts, 1)
        return sum(choice.prompt_tokens for choice in self.completions[::per_prompt])


@dataclass(frozen=True, slots=True)
class CommitResult:
    """Where each outcome went: written now, written by an earlier try of the same commit, or refused as late."""

    applied: frozenset[UUID] = frozenset()
    already_mine: frozenset[UUID] = frozenset()
    fenced: frozenset[UUID] = frozenset()


@dataclass(frozen=True, slots=True)
class Reaped:
    """What a reap found: workers whose lease ran out, and rows taken back from them."""

    num_workers: int = 0
    num_jobs: int = 0
