"""A stored batch to what users read: OpenAI's batch object, and beside it how far it is and why it stands there.

Knows neither FastAPI nor where rows come from; its cost does not grow with the batch.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

from api.rendering.bodies import Json, error_line, output_line, seconds
from models.batch_requests import window_text
from models.ids import public_id
from models.records import BatchRecord, ErrorCount, JobRecord
from models.status import FINAL, FINAL_BATCH, BatchStatus, Status


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a batch's row does not say. None where nobody asked. `live_models`: what live workers serve."""

    now: datetime
    num_running: int = 0
    first_errors: Sequence[ErrorCount] | None = None
    live_models: Collection[str] | None = None
    first_model: str | None = None  # of the first row; nearly always that of all rows


def batch_body(batch: BatchRecord, around: Surroundings) -> Json:
    """The batch object: OpenAI's fields, then ours."""
    return _openai(batch) | {
        "priority": batch.priority,
        "max_attempts": batch.max_attempts,
        "counts": counts(batch, around.num_running),
        "progress": progress(batch, around.now),
        "status_reason": status_reason(batch, around),
        "first_errors": None if around.first_errors is None else [asdict(error) for error in around.first_errors],
        "partial_output_file_id": _file_id(batch.output_file_id, _is_running(batch)),
    }


def _openai(batch: BatchRecord) -> Json:
    is_whole = batch.status in FINAL_BATCH and batch.status is not BatchStatus.FAILED
    num_other = batch.num_failed + batch.num_cancelled + batch.num_expired
    window = batch.completion_window
    if window is None and batch.completion_window_seconds is not None:
        window = window_text(batch.completion_window_seconds)
    return {
        "id": public_id("batch", batch.id),
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": {"object": "list", "data": list(batch.errors)} if batch.errors else None,
        "input_file_id": None if batch.input_file_id is None else public_id("file", batch.input_file_id),
        "completion_window": window,
        "status": batch.status,
        "output_file_id": _file_id(batch.output_file_id, is_whole and batch.num_completed > 0),
        "error_file_id": _file_id(batch.error_file_id, is_whole and num_other > 0),
        **_times(batch),
        "request_counts": {
            "total": num_requests(batch),
            "completed": batch.num_completed,
            "failed": batch.num_failed,  # as at OpenAI without those that expired or were cancelled
        },
        "usage": {
            "input_tokens": batch.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": batch.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": batch.prompt_tokens + batch.output_tokens,
        },
        "metadata": dict(batch.metadata),
    }


def _times(batch: BatchRecord) -> Json:
    """When it came to each state; null for one it did not come to."""
    return {
        "created_at": seconds(batch.created_at),
        "in_progress_at": seconds(batch.in_progress_at),
        "expires_at": seconds(batch.expires_at),
        "finalizing_at": seconds(batch.finalizing_at),
        "completed_at": seconds(batch.completed_at),
        "failed_at": seconds(batch.failed_at),
        "expired_at": seconds(batch.expired_at),
        "cancelling_at": seconds(batch.cancelling_at),
        "cancelled_at": seconds(batch.cancelled_at),
    }


def num_requests(batch: BatchRecord) -> int:
    """How many requests the batch holds: what validation counted, as rows may still be coming in; 0 until then."""
    return max(batch.num_requests or 0, batch.num_total)


def counts(batch: BatchRecord, num_running: int) -> Json:
    """Requests by status; they add up to request_counts.total. A request that is no row yet counts as queued, and at
    the end as what ended the batch before it became one.

    `num_running` was read a moment after the batch, so it is held to what the batch says is left.
    """
    num_unread = num_requests(batch) - batch.num_total
    is_over, has_expired = batch.status in FINAL_BATCH, batch.status is BatchStatus.EXPIRED
    num_left = batch.num_unfinished + (0 if is_over else num_unread)
    running = min(num_running, num_left)
    return {
        "queued": num_left - running,
        "running": running,
        "completed": batch.num_completed,
        "failed": batch.num_failed,
        "cancelled": batch.num_cancelled + (num_unread if is_over and not has_expired else 0),
        "expired": batch.num_expired + (num_unread if has_expired else 0),
    }


def progress(batch: BatchRecord, now: datetime) -> Json:
    """How far the batch is: share of its requests that are done, tokens of finished rows, and the time left at the
    mean rate since its first row. Null where there is nothing to judge by."""
    num_all, num_done = num_requests(batch), batch.num_total - batch.num_unfinished
    ended_at = batch.completed_at or batch.expired_at or batch.cancelled_at or batch.failed_at
    began_at = batch.in_progress_at
    elapsed = 0.0 if began_at is None else max(((ended_at or now) - began_at).total_seconds(), 0.0)
    num_left = 0 if ended_at else num_all - num_done
    return {
        "fraction": num_done / num_all if num_all else None,
        "tokens_generated": batch.output_tokens,
        "tokens_per_second": round(batch.output_tokens / elapsed, 1) if elapsed else None,
        "eta_seconds": round(num_left * elapsed / num_done, 1) if num_done and elapsed else None,
    }


def status_reason(batch: BatchRecord, around: Surroundings) -> str | None:
    """Why the batch stands where it stands, where its status and counts alone do not say; else None."""
    if batch.status is BatchStatus.VALIDATING:
        return _why_validating(batch, around.live_models)
    if batch.status is BatchStatus.IN_PROGRESS:
        return _why_waiting(batch, around)
    if batch.status is BatchStatus.CANCELLING:
        return f"cancelling: {_rows(batch.num_unfinished)} still to stop"
    if batch.status is BatchStatus.FAILED and batch.errors:
        return f"failed: {batch.errors[0].get('message')}"
    if batch.status is BatchStatus.EXPIRED:
        num_expired = counts(batch, num_running=0)["expired"]
        return f"expired: the completion window passed with {_rows(num_expired)} not done"
    if batch.status is BatchStatus.COMPLETED and batch.num_failed:
        return f"completed: {_rows(batch.num_failed)} failed"
    return None


def _why_validating(batch: BatchRecord, live_models: Collection[str] | None) -> str:
    if batch.intake_owner is not None:
        return f"validating: a worker reads the input, {batch.num_lines_read} lines so far"
    return (
        "validating: no live worker"
        if live_models is not None and not live_models
        else ("validating: waiting for a worker")
    )


def _why_waiting(batch: BatchRecord, around: Surroundings) -> str | None:
    """Nothing of it runs: because nobody could, or because others come first."""
    if around.num_running or around.live_models is None:
        return None
    if not around.live_models:
        return "in_progress: no live worker"
    model = batch.model or around.first_model
    if model and model not in around.live_models:
        return f"in_progress: no live worker serves model {model}"
    return "in_progress: its rows wait for their turn"


def _rows(number: int) -> str:
    return f"{number} row{'' if number == 1 else 's'}"


def _is_running(batch: BatchRecord) -> bool:
    """Whether there are rows to read, and more to come."""
    return batch.status in (BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, BatchStatus.CANCELLING)


def _file_id(id: UUID | None, is_there: bool) -> str | None:
    return public_id("file", id) if id is not None and is_there else None


def result_line(job: JobRecord) -> Json:
    """A finished row as its line of the output or the error file, with its place in the input."""
    line = output_line(job) if job.status is Status.COMPLETED else error_line(job)
    return {"seq": job.line} | line


def until_unfinished(rows: Sequence[JobRecord]) -> list[JobRecord]:
    """The rows before the first that is not final: handed out in this order, none is missed and none comes twice."""
    end = next((place for place, job in enumerate(rows) if job.status not in FINAL), len(rows))
    return list(rows[:end])
