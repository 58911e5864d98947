"""What the service promised: every job it accepted, every cancel, every id it gave a key. Filled in by the clients."""

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

FINAL = frozenset({"completed", "failed", "cancelled", "expired"})
FINAL_BATCH = frozenset({"completed", "failed", "cancelled", "expired"})


def canonical(body: object) -> str:
    """A body as text; two reads of it are the same text."""
    return json.dumps(body, sort_keys=True)


@dataclass
class Job:
    """An accepted job. Its answer is the first `max_tokens` characters of its prompt; a poisonous one has none."""

    id: str
    prompt: str
    max_tokens: int
    is_poison: bool = False
    status: str = "queued"
    final: str | None = None  # the body as it was first read in a final state
    cancel_accepted: bool = False
    worker: str | None = None  # that had it when it was last read

    @property
    def answer(self) -> str:
        """What it must come to, whoever decodes it, however often."""
        return self.prompt[: self.max_tokens]


@dataclass
class Batch:
    """An accepted batch: by custom_id the answer of each line; None for one that is bad and must fail."""

    id: str
    answers: Mapping[str, str | None]
    status: str = "validating"
    final: str | None = None
    cancel_accepted: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)


class Journal:
    """Safe to use from every thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.jobs: dict[str, Job] = {}
        self.batches: dict[str, Batch] = {}
        self.ids_of_key: dict[str, set[str]] = defaultdict(set)
        self.violations: dict[str, None] = {}  # each once, in the order in which they were seen
        self.counts: dict[str, int] = defaultdict(int)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else changes anything for the length of the block."""
        with self._lock:
            yield

    def violated(self, what: str) -> None:
        """A promise was broken."""
        with self._lock:
            self.violations[what] = None

    def count(self, what: str) -> None:
        """One more of something worth telling."""
        with self._lock:
            self.counts[what] += 1

    def accepted_job(self, job: Job, key: str) -> None:
        """An answer of 2xx."""
        with self._lock:
            self.ids_of_key[key].add(job.id)
            self.jobs.setdefault(job.id, job)

    def accepted_batch(self, batch: Batch, key: str) -> None:
        """An answer of 2xx."""
        with self._lock:
            self.ids_of_key[key].add(batch.id)
            self.batches.setdefault(batch.id, batch)

    def saw_job(self, body: Mapping[str, Any]) -> None:
        """A job was read: where it stands; a final one with its result, once and for all."""
        with self._lock:
            job = self.jobs[body["id"]]
            job.status, job.worker = body["status"], body["worker_id"]
            if job.status in FINAL and job.final is None:
                job.final = canonical(body)

    def lost_job(self, id: str) -> None:
        """The service says that there is no such job."""
        with self._lock:
            job = self.jobs[id]
            job.status = job.final = "lost"
        self.violated(f"{id} was accepted and is unknown")

    def saw_batch(self, body: Mapping[str, Any]) -> None:
        """A batch was read."""
        with self._lock:
            batch = self.batches[body["id"]]
            batch.status, batch.counts = body["status"], body["counts"]
            if batch.status in FINAL_BATCH and batch.final is None:
                batch.final = canonical(body)

    def unfinished_jobs(self) -> list[str]:
        """Ids of jobs whose end was not seen."""
        with self._lock:
            return [job.id for job in self.jobs.values() if job.final is None]

    def unfinished_batches(self) -> list[str]:
        """Ids of batches whose end was not seen."""
        with self._lock:
            return [batch.id for batch in self.batches.values() if batch.final is None]

    def rows_by_worker(self) -> Counter[str]:
        """How many jobs each worker was last seen with, batches left out."""
        with self._lock:
            return Counter(job.worker for job in self.jobs.values() if job.worker is not None)

    def num_unfinished(self) -> int:
        """Jobs whose end was not seen, those in batches included."""
        counts = self.by_state()
        return len(self.unfinished_batches()) + sum(counts.get(state, 0) for state in ("queued", "in_progress"))

    def num_accepted(self) -> int:
        """Jobs and lines of batches."""
        with self._lock:
            return len(self.jobs) + sum(len(batch.answers) for batch in self.batches.values())

    def by_state(self) -> dict[str, int]:
        """How many jobs, those in batches included, were last seen in which state."""
        counts: dict[str, int] = defaultdict(int)
        with self._lock:
            for job in self.jobs.values():
                counts[job.status] += 1
            for batch in self.batches.values():
                for state, number in batch.counts.items():
                    counts["in_progress" if state == "running" else state] += number
        return counts
