"""Records to column values and rows to records. No queries."""

from collections.abc import Iterable
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Row, RowMapping

from models.ids import next_seq
from models.packing import (
    clean_optional,
    clean_text,
    dump_json,
    load_json,
    pack_logprobs,
    pack_token_ids,
    unpack_logprobs,
    unpack_token_ids,
)
from models.records import (
    BatchRecord,
    ClaimedJob,
    CompletionRecord,
    FileRecord,
    JobError,
    JobRecord,
    NewJob,
    Outcome,
    WorkerRecord,
)
from models.status import BatchStatus, Status

DEADLINE_EXCEEDED = JobError("deadline_exceeded", "The deadline passed before the job was finished.")
_REASONS = {
    Status.EXPIRED: DEADLINE_EXCEEDED,
    Status.FAILED: JobError("internal_error", "The job failed without saying why."),
}
MAX_MESSAGE_CHARS = 2000  # of a stored error; a stack of library text is cut


class Moved(NamedTuple):
    """A row whose status was just written, as its batch needs to know."""

    id: UUID
    batch_id: UUID | None
    status: str


def job_values(job: NewJob) -> dict[str, Any]:
    """The columns of a new row in `jobs` that its submitter decides."""
    return {
        "id": job.id,
        "seq": next_seq(),
        "tenant": job.tenant,
        "batch_id": job.batch_id,
        "line": job.line,
        "custom_id": clean_optional(job.custom_id),
        "endpoint": job.endpoint,
        "model": clean_text(job.model),
        "priority": job.priority,
        "deadline": job.deadline,
        "max_attempts": job.max_attempts,
        "suspicion": job.suspicion,
        "level": job.level,
        **error_values(job.error),
    }


def error_values(error: JobError | None) -> dict[str, str | None]:
    """The two error columns."""
    if error is None:
        return {"error_code": None, "error_message": None}
    return {"error_code": error.code, "error_message": clean_text(error.message)[:MAX_MESSAGE_CHARS]}


def outcome_values(outcome: Outcome) -> dict[str, Any]:
    """An outcome without its completions. One without a reason gets the general one of its status."""
    error = outcome.error or _REASONS.get(outcome.status)
    return {
        "id": outcome.id,
        "attempt": outcome.attempt,
        "status": outcome.status.value,
        **error_values(error),
    }


def completion_values(job_id: UUID, completion: CompletionRecord) -> dict[str, Any]:
    """The columns of a new row in `completions`, but for its time."""
    logprobs, prompt, details = completion.logprobs, completion.prompt_token_ids, completion.details
    return {
        "job_id": job_id,
        "choice_index": completion.choice_index,
        "text": clean_text(completion.text),
        "token_ids": pack_token_ids(completion.token_ids),
        "logprobs": None if logprobs is None else pack_logprobs(logprobs),
        "prompt_token_ids": None if prompt is None else pack_token_ids(prompt),
        "details": None if details is None else dump_json(details),
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "output_tokens": completion.output_tokens,
        "seed": completion.seed,
        "fingerprint": completion.fingerprint,
    }


def completion_record(row: Row[Any]) -> CompletionRecord:
    """Read a row of `completions`."""
    return CompletionRecord(
        choice_index=row.choice_index,
        text=row.text,
        token_ids=unpack_token_ids(row.token_ids),
        logprobs=None if row.logprobs is None else unpack_logprobs(row.logprobs),
        prompt_token_ids=None if row.prompt_token_ids is None else unpack_token_ids(row.prompt_token_ids),
        details=None if row.details is None else load_json(row.details),
        finish_reason=row.finish_reason,
        prompt_tokens=row.prompt_tokens,
        output_tokens=row.output_tokens,
        seed=row.seed,
        fingerprint=row.fingerprint,
        created_at=row.created_at,
    )


def job_record(row: Row[Any], completions: Iterable[CompletionRecord]) -> JobRecord:
    """Read a row of `jobs` joined with its payload, which is null once retention deleted it."""
    error = None if row.error_code is None else JobError(row.error_code, row.error_message or "")
    return JobRecord(
        id=row.id,
        tenant=row.tenant,
        batch_id=row.batch_id,
        line=row.line,
        custom_id=row.custom_id,
        endpoint=row.endpoint,
        model=row.model,
        priority=row.priority,
        suspicion=row.suspicion,
        status=Status(row.status),
        attempt=row.attempt,
        cancel_requested=row.cancel_requested,
        deadline=row.deadline,
        error=error,
        created_at=row.created_at,
        published_at=row.published_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        owner=row.owner,
        max_attempts=row.max_attempts,
        level=row.level,
        solo_crashes=row.solo_crashes,
        replayed_as=row.replayed_as,
        payload="{}" if row.body is None else row.body,
        completions=tuple(completions),
        input_expired=bool(row._mapping.get("input_expired")),
        is_expired=row.body is None,
    )


def claimed_job(row: Row[Any]) -> ClaimedJob:
    """Read a row that a claim returned."""
    return ClaimedJob(
        id=row.id,
        attempt=row.attempt,
        endpoint=row.endpoint,
        model=row.model,
        body=load_json(row.body),
        priority=row.priority,
        deadline=row.deadline,
        suspicion=row.suspicion,
        tenant=row.tenant,
    )


def batch_record(row: RowMapping) -> BatchRecord:
    """Read a row of `batches`."""
    values = dict(row)
    return BatchRecord(
        **values
        | {
            "status": BatchStatus(values["status"]),
            "metadata": load_json(values["metadata"]),
            "errors": load_json(values["errors"]),
        }
    )


def file_record(row: RowMapping) -> FileRecord:
    """Read a row of `files`; -1 stands for a length that nobody measured."""
    return FileRecord(**dict(row) | {"bytes": None if row["bytes"] < 0 else row["bytes"]})


def worker_record(row: RowMapping) -> WorkerRecord:
    """Read a row of `workers`."""
    return WorkerRecord(**row)
