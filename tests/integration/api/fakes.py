"""A worker in a few lines: it claims and commits through the real Claims, and answers what the test says."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from models.claims import Claims
from models.database import Database
from models.ids import uuid7
from models.records import ClaimedJob, CompletionRecord, JobError, JobRecord, Outcome, WorkerRecord
from models.status import Status
from models.store import Store
from tests.waiting import wait_until

PATIENCE_SECONDS = 5.0


@dataclass
class Worker:
    """Finishes jobs on request, or all that come from a thread of its own."""

    store: Store
    claims: Claims
    id: UUID
    _stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    @classmethod
    def registered(cls, database: Database, *, model: str) -> "Worker":
        """A worker with a lease."""
        record = WorkerRecord(uuid7(), "host/test/0", "host", 1, model, rows=8, max_model_len=128, dtype="float32")
        worker = cls(Store(database), Claims(database), record.id)
        worker.claims.register(record, lease_seconds=60)
        return worker

    def claim(self, job_id: UUID) -> ClaimedJob:
        """Take a queued job. On PostgreSQL a claim passes over a row that the publisher holds for a moment."""
        taken: list[ClaimedJob] = []

        def try_it() -> bool:
            taken.extend(self.claims.claim(self.id, [job_id]))
            return bool(taken)

        wait_until(try_it, PATIENCE_SECONDS)
        return taken[0]

    def complete(
        self, job: ClaimedJob, text: str = "done", *, more: Sequence[str] = (), details: Mapping[str, Any] | None = None
    ) -> None:
        """Commit a completion of two tokens, and further ones with the texts `more`."""
        completion = CompletionRecord(
            choice_index=0,
            text=text,
            token_ids=(5, 6),
            finish_reason="stop",
            prompt_tokens=3,
            output_tokens=2,
            logprobs=(-0.5, -1.5),
            prompt_token_ids=(1, 2, 3),
            details=details,
            seed=job.body["seed"],
            fingerprint="fp",
        )
        rest = [replace(completion, choice_index=index, text=text) for index, text in enumerate(more, start=1)]
        self.claims.commit(self.id, [Outcome(job.id, job.attempt, Status.COMPLETED, (completion, *rest))])

    def fail(self, job: ClaimedJob, code: str) -> None:
        """Commit a failure."""
        error = JobError(code, f"it was {code}")
        self.claims.commit(self.id, [Outcome(job.id, job.attempt, Status.FAILED, error=error)])

    def cancel(self, job: ClaimedJob) -> None:
        """Obey a request to stop."""
        self.claims.commit(self.id, [Outcome(job.id, job.attempt, Status.CANCELLED)])

    def finish_all(self, code: str | None = None) -> None:
        """From now on finish every job that comes: completed, or failed with a code."""

        def work() -> None:
            while not self._stopping.wait(0.005):
                for hint in self.store.take_unpublished(10):
                    job = self.claim(hint.id)
                    self.complete(job) if code is None else self.fail(job, code)

        self._threads.append(threading.Thread(target=work))
        self._threads[-1].start()

    def stop(self) -> None:
        """End the threads."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()


def wait_for_job(store: Store, job_id: UUID, status: Status) -> JobRecord:
    """Wait until a job has a status."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < give_up_at:
        job = store.job(job_id)
        if job is not None and job.status is status:
            return job
        time.sleep(0.01)
    raise AssertionError(f"the job did not become {status}")
