"""A Celery result backend that reads the jobs table: AsyncResult(job_id) works wherever this package is installed.

Workers commit results themselves, in groups; nothing passes through here on the way in but revokes and the failures
Celery itself decides on. A service with tasks of its own names the backend of their results as `other_tasks` in
`result_backend_transport_options`; a chord may then hold generations and tasks of its own together.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cached_property
from typing import Any

from celery import states
from celery.app.backends import by_url
from celery.backends.base import Backend, BaseBackend
from celery.exceptions import TimeoutError

from models.database import Database
from models.errors import ResultExpired
from models.ids import job_id_of_task, public_id
from models.messages import GENERATE, GENERATE_CHUNK
from models.records import CompletionRecord, JobError, JobRecord, NewJob
from models.requests import ENDPOINTS
from models.status import Status
from models.store import Store

log = logging.getLogger(__name__)

OTHER_TASKS = "other_tasks"  # key in result_backend_transport_options: the URL of a backend Celery knows
LOOK_SECONDS = 0.5  # between two looks at a group's results
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
    supports_native_join = True  # get_many below: a group's results by one query a look, not one a result
    supports_autoexpire = True  # retention is the database's business

    @cached_property
    def store(self) -> Store:
        """Connected at first use: building a Celery application must not need a database."""
        return Store(Database(self.url, pool_size=2))

    @cached_property
    def others(self) -> Backend | None:
        """Where the results of other tasks are kept."""
        url = (self.app.conf.result_backend_transport_options or {}).get(OTHER_TASKS)
        if url is None:
            return None
        kind, url = by_url(url, self.app.loader)
        return kind(app=self.app, url=url)

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        job = self.store.job(job_id_of_task(task_id))
        if job is not None:
            return self._meta(task_id, job)
        if self.others is not None:
            return dict(self.others._get_task_meta_for(task_id))
        # Celery knows no "unknown": an inline job is stored when a worker claims it.
        return {"status": states.PENDING, "result": None, "task_id": task_id}

    def _meta(self, task_id: str, job: JobRecord) -> dict[str, Any]:
        return {
            "status": _state(job),
            "result": self._result(job),
            "task_id": task_id,
            "traceback": None,
            "children": [],
            "date_done": job.finished_at.isoformat() if job.finished_at else None,
            "retries": max(job.attempt - 1, 0),
        }

    def get_many(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        interval: float | None = None,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], object] | None = None,
        on_interval: Callable[[], object] | None = None,
        max_iterations: int | None = None,
        READY_STATES: Collection[str] = states.READY_STATES,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Results as they become ready, for groups and chords; the signature is Celery's. Raises TimeoutError."""
        waiting, num_looks = set(task_ids), 0
        ends = None if timeout is None else time.monotonic() + timeout
        while waiting:
            for task_id, meta in self._ready(waiting, READY_STATES):
                waiting.discard(task_id)
                if on_message is not None:
                    on_message(meta)
                yield task_id, meta
            num_looks += 1
            if not waiting or num_looks == max_iterations:
                return
            if ends is not None and time.monotonic() >= ends:
                raise TimeoutError(f"{len(waiting)} results were not ready within {timeout} s")
            if on_interval is not None:
                on_interval()
            time.sleep(LOOK_SECONDS if interval is None else interval)

    def _ready(self, task_ids: Collection[str], ready_states: Collection[str]) -> list[tuple[str, dict[str, Any]]]:
        by_job = {job_id_of_task(task_id): task_id for task_id in task_ids}
        statuses = self.store.statuses(list(by_job))
        final = [job_id for job_id, status in statuses.items() if STATES[status] in ready_states]
        ready = [(by_job[job.id], self._meta(by_job[job.id], job)) for job in self.store.jobs(final)]
        if self.others is not None:
            foreign = [task_id for job_id, task_id in by_job.items() if job_id not in statuses]
            metas = ((task_id, dict(self.others._get_task_meta_for(task_id))) for task_id in foreign)
            ready += [(task_id, meta) for task_id, meta in metas if meta["status"] in ready_states]
        return ready

    def _result(self, job: JobRecord) -> object:
        if job.status is Status.COMPLETED and not job.is_expired:
            return completion_result(job)
        if job.error is not None or job.status in (Status.COMPLETED, Status.EXPIRED):
            gone = JobError(ResultExpired.code, ResultExpired().message)
            late = JobError("expired", "the deadline passed before the job was done")
            error = job.error or (gone if job.is_expired else late)
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
        **more: Any,  # noqa: ANN401
    ) -> object:
        """Take what Celery decides by itself, and other tasks' results; a result of ours never comes this way."""
        job_id = job_id_of_task(task_id)
        name = getattr(request, "task", None)
        is_generation = self.store.job(job_id) is not None if name is None else name in (GENERATE, GENERATE_CHUNK)
        if not is_generation and self.others is not None:
            return self.others._store_result(task_id, result, state, traceback=traceback, request=request, **more)
        if not is_generation and name is not None:
            log.warning("the result of %s is not kept: name a backend for it in %s", name, OTHER_TASKS)
            return result
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
    if job.is_expired and job.status is Status.COMPLETED:
        return str(states.FAILURE)
    return str(STATES[job.status])


def completion_result(job: JobRecord) -> dict[str, Any]:
    """The value of AsyncResult(job_id).get(), JSON-friendly: the first answer, and in `choices` all of them.

    `logprobs` are natural logs of the chosen tokens under the raw logits' softmax, before temperature and filters.
    """
    first = job.completions[0]
    # The answers to one prompt share it, and it counts once.
    prompt_tokens = sum(choice.prompt_tokens for choice in job.completions[:: job.body.get("n", 1)])
    output_tokens = sum(choice.output_tokens for choice in job.completions)
    return {
        "id": public_id(job.endpoint, job.id),
        "model": job.model,
        **_choice(first),
        "choices": [{"index": choice.choice_index, **_choice(choice)} for choice in job.completions],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": prompt_tokens + output_tokens,
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
