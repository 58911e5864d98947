"""Short ways to make jobs, batches, workers and outcomes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from models.batch_store import BatchStore
from models.claims import Claims
from models.database import Database
from models.file_store import FileStore
from models.ids import uuid7
from models.records import (
    DEFAULT_TENANT,
    ClaimedJob,
    CompletionRecord,
    JobError,
    NewBatch,
    NewFile,
    NewJob,
    Outcome,
    WorkerRecord,
)
from models.status import Status
from models.store import Store

ENDPOINT = "/v1/completions"
MODEL = "demo"
LONG = 60.0  # seconds: a lease that lasts
SHORT = 0.01  # seconds: a lease that runs out at once
REFUSAL = JobError("invalid_json", "the line is not valid JSON")


def new_job(**changes: Any) -> NewJob:  # noqa: ANN401 - any field of NewJob
    """A job with a small body."""
    return replace(NewJob(uuid7(), MODEL, ENDPOINT, {"prompt": "hello"}), **changes)


def new_jobs(number: int, **changes: Any) -> list[NewJob]:  # noqa: ANN401
    """Several of them."""
    return [new_job(**changes) for _ in range(number)]


def lines(number: int, *, first: int = 0, **changes: Any) -> list[NewJob]:  # noqa: ANN401
    """Lines of a batch, numbered, each with a custom_id of its own."""
    return [new_job(line=line, custom_id=f"request-{line}", **changes) for line in range(first, first + number)]


def new_batch(batches: BatchStore, **changes: Any) -> UUID:  # noqa: ANN401
    """A stored batch whose input is still to be read."""
    batch = replace(NewBatch(uuid7(), ENDPOINT, MODEL), **changes)
    batches.create(batch)
    return batch.id


def whole_batch(batches: BatchStore, rows: Sequence[NewJob], **changes: Any) -> UUID:  # noqa: ANN401
    """A stored batch whose input was read to its end."""
    batch_id = new_batch(batches, **changes)
    batches.append(batch_id, rows, num_lines=len(rows), num_bytes=0)
    batches.end_intake(batch_id)
    return batch_id


def new_file(database: Database, *, tenant: str = DEFAULT_TENANT, purpose: str = "batch") -> UUID:
    """The id of a file's row; there are no bytes."""
    new = NewFile(id=uuid7(), tenant=tenant, purpose=purpose, filename="input.jsonl", bytes=1)
    return FileStore(database).create(new).id


def new_worker(claims: Claims, *, slot: str = "host/0", lease_seconds: float = LONG) -> UUID:
    """The id of a registered worker."""
    worker = WorkerRecord(uuid7(), slot, "host", 1, MODEL, rows=8)
    claims.register(worker, lease_seconds=lease_seconds)
    return worker.id


def choice(text: str = "hi", **changes: Any) -> CompletionRecord:  # noqa: ANN401
    """One completion of two tokens."""
    return replace(CompletionRecord(0, text, (1, 2), "stop", prompt_tokens=3, output_tokens=2), **changes)


def completed(job: ClaimedJob) -> Outcome:
    """The job completed with one choice."""
    return Outcome(job.id, job.attempt, Status.COMPLETED, (choice(),))


def failed(job: ClaimedJob, code: str = "context_length_exceeded") -> Outcome:
    """The job failed for its own fault."""
    return Outcome(job.id, job.attempt, Status.FAILED, error=JobError(code, "too long"))


def submit_and_claim(store: Store, claims: Claims, worker_id: UUID, **changes: Any) -> ClaimedJob:  # noqa: ANN401
    """A job that this worker holds."""
    job = new_job(**changes)
    store.submit([job])
    (claimed,) = claims.claim(worker_id, [job.id])
    return claimed
