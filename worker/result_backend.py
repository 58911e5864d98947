"""A Celery result backend that reads the jobs table: AsyncResult(job_id) works wherever this package is installed.

Workers commit results themselves, in groups; nothing passes through here on the way in but revokes and the failures
Celery itself decides on.
"""

from functools import cached_property
from typing import Any

from celery import states
from celery.backends.base import BaseBackend

from models.database import Database
from models.ids import job_id_of_task, public_id
from models.records import CompletionRecord, JobError, JobRecord, NewJob
from models.requests import ENDPOINTS
from models.status import Status
from models.store import Store

REVOKED = "revoked"  # error code of an inline job that was revoked before any worker claimed it

STATES = {
    Status.QUEUED: states.PENDING,
    Status.IN_PROGRESS: states.STARTED,
    Status.COMPLETED: states.SUCCESS,
    Status.FAILED: states.FAILURE,
    Status.CANCELLED: states.REVOKED,
    Status.EXPIRED: states.FAILURE,
}


class GenerationError(Exception):
    """A job that failed or expired, as AsyncResult.get() raises it: "code: message"."""


class JobsBackend(BaseBackend):
    """`result_backend = "worker.result_backend:JobsBackend+<database url>"`."""

    persistent = True
    supports_autoexpire = True  # retention is the database's business

    @cached_property
    def store(self) -> Store:
        """Connected at first use: building a Celery application must not need a database."""
        return Store(Database(self.url, pool_size=2))

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        job = self.store.job(job_id_of_task(task_id))
        if job is None:  # Celery knows no "unknown": an inline job is stored when a worker claims it
            return {"status": states.PENDING, "result": None, "task_id": task_id}
        return {
            "status": _state(job),
            "result": self._result(job),
            "task_id": task_id,
            "traceback": None,
            "children": [],
            "date_done": job.finished_at.isoformat() if job.finished_at else None,
            "retries": max(job.attempt - 1, 0),
        }

    def _result(self, job: JobRecord) -> object:
        if job.status is Status.COMPLETED:
            return completion_result(job)
        if job.error is not None or job.status is Status.EXPIRED:
            error = job.error or JobError("expired", "the deadline passed before the job was done")
            return self.exception_to_python(
                {
                    "exc_type": GenerationError.__name__,
                    "exc_message": [f"{error.code}: {error.message}"],
                    "exc_module": __name__,
                }
            )
        return None

    def _store_result(
        self,
        task_id: str,
        result: object,
        state: str,
        traceback: str | None = None,
        request: object = None,
        **_: Any,  # noqa: ANN401
    ) -> object:
        """Take what Celery decides by itself; a result of ours never comes this way."""
        job_id = job_id_of_task(task_id)
        if state == states.REVOKED and self.store.cancel(job_id) is None:
            self._refuse(job_id, JobError(REVOKED, "the task was revoked before a worker claimed it"))
        elif state == states.FAILURE:
            self._refuse(job_id, JobError("task_failed", type(result).__name__))
        return result

    def _refuse(self, job_id: Any, error: JobError) -> None:  # noqa: ANN401
        """Note the end of an inline job that has no row; one that has is left to its owner."""
        self.store.submit([NewJob(job_id, "unknown", ENDPOINTS[0], {}, error=error)])

    def _forget(self, task_id: str) -> None:
        """Keep the row: retention deletes it."""

    def __reduce__(self, args: tuple[object, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:  # noqa: ANN401
        return super().__reduce__(args, {**(kwargs or {}), "url": self.url})


def _state(job: JobRecord) -> str:
    if job.error is not None and job.error.code == REVOKED:
        return str(states.REVOKED)
    return str(STATES[job.status])


def completion_result(job: JobRecord) -> dict[str, Any]:
    """The value of AsyncResult(job_id).get(), JSON-friendly: the first answer, and in `choices` all of them.

    `logprobs` are natural logs of the chosen tokens under the raw logits' softmax, before temperature and filters.
    """
    first = job.completions[0]
    output_tokens = sum(choice.output_tokens for choice in job.completions)
    return {
        "id": public_id(job.endpoint, job.id),
        "model": job.model,
        **_choice(first),
        "choices": [{"index": choice.choice_index, **_choice(choice)} for choice in job.completions],
        "usage": {
            "prompt_tokens": first.prompt_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": first.prompt_tokens + output_tokens,
        },
        "seed": first.seed,
    }


def _choice(completion: CompletionRecord) -> dict[str, Any]:
    return {
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "logprobs": list(completion.logprobs or ()),
        "finish_reason": completion.finish_reason,
    }
