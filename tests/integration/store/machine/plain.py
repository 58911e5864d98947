"""What should be, as plain Python: dictionaries, no SQL, one thing after the other. Slow, small, and easy to read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from models.intake import OPEN
from models.records import CommitResult, JobError, Outcome
from models.status import FINAL, BatchStatus, Status
from models.suspects import Level
from models.transitions import MAX_SOLO_CRASHES
from tests.integration.store.machine.seen import Batch, Row

MAX_ATTEMPTS = 6
LATE = "deadline_exceeded"


@dataclass
class Plain:
    """The rows as they should be. `slots`: of each worker that is there."""

    rows: dict[UUID, Row] = field(default_factory=dict)
    batches: dict[UUID, Batch] = field(default_factory=dict)
    workers: dict[UUID, bool] = field(default_factory=dict)
    slots: dict[UUID, str] = field(default_factory=dict)
    keys: dict[str, UUID] = field(default_factory=dict)

    def add(self, ids: Iterable[UUID], *, batch: UUID | None = None, error: JobError | None = None) -> None:
        """New jobs; one that is there already stays as it is."""
        for id in ids:
            if id not in self.rows:
                status = Status.FAILED if error else Status.QUEUED
                self.rows[id] = Row(batch, status, error=error.code if error else None)
        self.count()

    def held(self, worker: UUID) -> list[UUID]:
        """What a worker holds."""
        return [id for id, row in self.rows.items() if row.owner == worker]

    def claimable(self, worker: UUID, ids: Iterable[UUID], level: Level) -> set[UUID]:
        """What a worker may claim of these, whose level of suspicion this is."""
        if not self.workers.get(worker):
            return set()
        known = {id: self.rows[id] for id in ids if id in self.rows}
        return {id for id, row in known.items() if row.is_waiting and row.level is level}

    def claim(self, worker: UUID, ids: Iterable[UUID]) -> None:
        """They are the worker's."""
        for id in ids:
            row = self.rows[id]
            row.status, row.owner, row.attempt = Status.IN_PROGRESS, worker, row.attempt + 1

    def commit(self, worker: UUID, outcomes: Sequence[Outcome]) -> CommitResult:
        """Outcomes of rows that the worker holds under that attempt are written; the rest is not."""
        applied, mine = set(), set()
        for outcome in outcomes:
            row = self.rows.get(outcome.id)
            if row is not None and (row.owner, row.attempt) == (worker, outcome.attempt):
                self._finish(row, outcome)
                if row.status is outcome.status:
                    applied.add(outcome.id)
            elif row is not None and (row.status, row.attempt) == (outcome.status, outcome.attempt):
                mine.add(outcome.id)
        self.count()
        return CommitResult(frozenset(applied), frozenset(mine), frozenset(o.id for o in outcomes) - applied - mine)

    def _finish(self, row: Row, outcome: Outcome) -> None:
        row.owner = None
        if row.cancel_requested:
            row.status = Status.CANCELLED
            return
        row.status = outcome.status
        row.texts = tuple(choice.text for choice in outcome.completions)
        row.error = outcome.error.code if outcome.error else None

    def give_back(self, ids: Iterable[UUID]) -> None:
        """Without blame; what is cancelled or late ends."""
        for id in ids:
            self._end_or_queue(self.rows[id], None)
        self.count()

    def lose(self, workers: Iterable[UUID]) -> None:
        """Their leases ran out: no blame, but not for ever."""
        for worker in workers:
            for id in self.held(worker):
                row = self.rows[id]
                self._end_or_queue(row, "attempts_exhausted" if row.attempt >= MAX_ATTEMPTS else None)
            self.forget(worker)
        self.count()

    def crash(self, workers: Iterable[UUID]) -> None:
        """They are known to have crashed: what they held is suspect."""
        for worker in workers:
            held = self.held(worker)
            for id in held:
                row = self.rows[id]
                ran_alone = len(held) == 1 and row.level is Level.ALONE
                row.suspicion += 1
                row.level = Level.ALONE if row.level else Level.FEW  # none held more than 64
                row.solo_crashes += ran_alone
                is_fatal = ran_alone and row.solo_crashes >= MAX_SOLO_CRASHES
                exhausted = "attempts_exhausted" if row.attempt >= MAX_ATTEMPTS else None
                self._end_or_queue(row, "worker_crashed" if is_fatal else exhausted)
            self.forget(worker)
        self.count()

    def forget(self, worker: UUID) -> None:
        """It is gone."""
        self.workers.pop(worker, None)
        self.slots.pop(worker, None)

    def _end_or_queue(self, row: Row, error: str | None) -> None:
        row.owner = None
        if row.cancel_requested:
            row.status = Status.CANCELLED
        elif row.is_late:
            row.status, row.error = Status.EXPIRED, LATE
        elif error is not None:
            row.status, row.error = Status.FAILED, error
        else:
            row.status = Status.QUEUED

    def cancel(self, ids: Iterable[UUID]) -> None:
        """What waits ends, what runs is told to."""
        for id in ids:
            row = self.rows[id]
            if row.status not in FINAL:
                row.cancel_requested = True
                row.status = Status.CANCELLED if row.status is Status.QUEUED else row.status
        self.count()

    def expire(self, ids: Iterable[UUID]) -> None:
        """What waited too long ends, and batches that nobody came to read."""
        for id in ids:
            self.rows[id].status, self.rows[id].error = Status.EXPIRED, LATE
        for batch in self.batches.values():
            if batch.is_late and not batch.is_read and not batch.num_total and batch.status in OPEN:
                batch.status = BatchStatus.EXPIRED
        self.count()

    def of_batch(self, batch: UUID) -> Mapping[UUID, Row]:
        """The rows of a batch."""
        return {id: row for id, row in self.rows.items() if row.batch == batch}

    def delete(self, ids: Iterable[UUID]) -> None:
        """They are gone, and the keys they were sent with."""
        for id in list(ids):
            del self.rows[id]
            self.keys = {key: job for key, job in self.keys.items() if job != id}

    def count(self) -> None:
        """Batches follow their rows."""
        for id, batch in self.batches.items():
            rows = list(self.of_batch(id).values())
            batch.num_total = len(rows)
            for status in FINAL:
                setattr(batch, f"num_{status}", sum(row.status is status for row in rows))
            batch.output_tokens = sum(2 for row in rows if row.status is Status.COMPLETED)
            if all(row.status in FINAL for row in rows):
                settle(batch)


def settle(batch: Batch) -> None:
    """A batch whose rows are all final is final, once it takes no more."""
    if batch.status is BatchStatus.CANCELLING:
        batch.status = BatchStatus.CANCELLED
    elif batch.status is BatchStatus.IN_PROGRESS and batch.is_read:
        batch.status = BatchStatus.EXPIRED if batch.is_late and batch.num_expired else BatchStatus.COMPLETED
