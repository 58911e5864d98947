"""Stored jobs to our job object: one view over every kind of job. Knows neither FastAPI nor where rows come from."""

from collections.abc import Collection, Mapping
from typing import Any

from api.rendering.bodies import Json, endpoint_body, error_entry, error_of, job_public_id, num_answers, seconds, usage
from models.errors import ResultExpired
from models.ids import public_id
from models.records import JobRecord
from models.status import FINAL, Status

REQUEST, RESULT = "request", "result"  # what a job object may include beside its state
RETRY_OF = "retry_of"  # the metadata that names the job which a retry repeats
TIMINGS = ("prefill_ms", "decode_ms", "ttft_ms")  # what the worker measured; the time in the queue is the table's


def job_entry(job: JobRecord) -> Json:
    """Where a job stands: what its row alone says, without its body and completions."""
    return {
        "id": job_public_id(job),
        "object": "job",
        "endpoint": job.endpoint,
        "model": job.model,
        "status": job.status,
        "status_reason": status_reason(job),
        "priority": job.priority,
        "attempts": job.attempt,
        "max_attempts": job.max_attempts,
        "suspicion": job.suspicion,
        "solo_crashes": job.solo_crashes,
        "batch_id": public_id("batch", job.batch_id) if job.batch_id else None,
        "custom_id": job.custom_id,
        "created_at": seconds(job.created_at),
        "started_at": seconds(job.started_at),
        "finished_at": seconds(job.finished_at),
        "expires_at": seconds(job.deadline),
        "worker_id": job.owner.hex if job.owner else None,
        "error": error_entry(error_of(job)) if job.status in FINAL - {Status.COMPLETED} else None,
        "replayed_as": public_id(job.endpoint, job.replayed_as) if job.replayed_as else None,
    }


def job_body(job: JobRecord, include: Collection[str] = (RESULT,)) -> Json:
    """The whole job object: its state, what it spent, and the request and the result where they are wanted."""
    request, metadata = job.body, metadata_of(job)
    body = job_entry(job) | {
        "usage": usage(job.completions, num_answers(request)),
        "timings": timings(job),
        "metadata": metadata,
        RETRY_OF: metadata.get(RETRY_OF),
    }
    if REQUEST in include:
        body[REQUEST] = request
    if RESULT in include:
        body[RESULT] = endpoint_body(job) if job.status is Status.COMPLETED and not job.is_expired else None
    return body


def timings(job: JobRecord) -> Json:
    """Milliseconds: waiting until the last claim, and what the worker measured of the attempt that completed."""
    waited = None if job.started_at is None else (job.started_at - job.created_at).total_seconds() * 1000
    measured: Mapping[str, Any] = (job.completions[0].details or {}).get("timings", {}) if job.completions else {}
    return {
        "queue_ms": None if waited is None else round(waited, 3),
        **{name: measured.get(name) for name in TIMINGS},
    }


def status_reason(job: JobRecord) -> str | None:
    """Why the job stands where it stands, where the status alone does not say."""
    if job.error is not None:
        return job.error.code
    if job.is_expired:
        return ResultExpired.code
    if job.status is Status.IN_PROGRESS and job.cancel_requested:
        return "cancel_requested"
    if job.status is Status.QUEUED and job.attempt:
        return "worker_crashed" if job.suspicion else "given_back"
    return None


def metadata_of(job: JobRecord) -> dict[str, Any]:
    """What the job was submitted with; a refused line may have anything in its place."""
    metadata = job.body.get("metadata")
    return dict(metadata) if isinstance(metadata, Mapping) else {}
