"""The claims: what workers and their keepers do with jobs, each method one transaction, each write fenced.

Raises as the store does, and repeating is as harmless: a claim whose answer was lost leaves rows that the lease's end
gives back, a commit whose answer was lost is recognised when it is run again.
"""

from collections.abc import Collection, Sequence
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import Connection, Row, case, select

from models import batches, cancelling, dialects, intake, leases, suspects, transitions
from models.columns import constant, is_one_of, now
from models.database import Database
from models.records import ClaimedJob, CommitResult, NewJob, Outcome, Reaped, WorkerRecord
from models.rows import Moved, claimed_job
from models.status import Status
from models.suspects import Level, Suspects
from models.tables import jobs, workers

MAX_ATTEMPTS = 25  # generous: a lost lease is not the job's fault


class TakeBack(Protocol):
    """A way to take the rows of a worker that is gone."""

    def __call__(self, connection: Connection, owner: UUID, /, *, max_attempts: int) -> list[Moved]:
        """Give the rows of `owner` back, or end them."""


class Claims:
    """Leases, and the rows held under them. A worker is named by the id of its incarnation."""

    def __init__(self, database: Database, *, max_attempts: int = MAX_ATTEMPTS) -> None:
        self.database = database
        self.max_attempts = max_attempts

    def register(self, worker: WorkerRecord, *, lease_seconds: float) -> None:
        """Give a new incarnation its lease. After a lost lease only a new id may register."""
        self.database.write(lambda connection: leases.register(connection, worker, lease_seconds))

    def heartbeat(self, worker_id: UUID, *, lease_seconds: float, state: str | None = None) -> str | None:
        """Renew the lease, and tell a new state; returns the state, which others may have changed. None: the lease is
        lost, stop decoding."""
        return self.database.write(lambda connection: leases.renew(connection, worker_id, lease_seconds, state))

    def deregister(self, worker_id: UUID) -> None:
        """Give back what is left and drop the lease."""

        def work(connection: Connection) -> None:
            leases.wait_and_lock(connection, workers.c.id == worker_id)
            batches.count(connection, transitions.release(connection, jobs.c.owner == worker_id))
            leases.forget(connection, worker_id)

        self.database.write(work)

    def claim(self, worker_id: UUID, ids: Sequence[UUID], *, level: Level = Level.NONE) -> list[ClaimedJob]:
        """Make the queued ones among `ids` that are of this level of suspicion this worker's; a message may name others
        by now, which wait to be found. Nothing for a worker whose lease is gone."""
        rows = self.database.write(lambda connection: dialects.of(connection).claim(connection, worker_id, ids, level))
        return [claimed_job(row) for row in rows]

    def suspects(self, model: str) -> Suspects | None:
        """Read which queued suspects of a model are to run next, if there are any. Other workers read the same."""
        with self.database.read() as connection:
            return suspects.find(connection, model)

    def claim_inline(self, worker_id: UUID, new: Sequence[NewJob]) -> list[ClaimedJob]:
        """Store jobs that came inside a message, where they are new, and claim them. A refused one ends failed."""

        def work(connection: Connection) -> Sequence[Row[Any]]:
            hot = dialects.of(connection)
            hot.insert_jobs(connection, new)
            return hot.claim(connection, worker_id, [job.id for job in new if job.error is None], Level.NONE)

        return [claimed_job(row) for row in self.database.write(work)]

    def commit(self, worker_id: UUID, outcomes: Sequence[Outcome]) -> CommitResult:
        """Write outcomes of attempts the worker still holds; a late one is refused.

        A completed or failed outcome whose cancelling was accepted first is refused too, and its row is cancelled.
        """
        return self.database.write(lambda connection: _commit(connection, worker_id, outcomes))

    def release(self, worker_id: UUID, ids: Sequence[UUID] | None = None) -> int:
        """Give rows back without blame, all or those named. Returns how many."""

        def work(connection: Connection) -> int:
            held = jobs.c.owner == worker_id
            if ids is not None:
                held = held & is_one_of(connection, jobs.c.id, ids)
            moved = transitions.release(connection, held)
            batches.count(connection, moved)
            return len(moved)

        return self.database.write(work)

    def to_stop(self, worker_id: UUID) -> list[tuple[UUID, Status]]:
        """Rows of this worker that are to end now, and how: cancelled or expired."""
        late = jobs.c.deadline.is_not(None) & (jobs.c.deadline <= now())
        query = (
            select(jobs.c.id, case((jobs.c.cancel_requested, Status.CANCELLED), else_=Status.EXPIRED))
            .where(jobs.c.owner == worker_id, jobs.c.status == constant(Status.IN_PROGRESS))
            .where(jobs.c.cancel_requested | late)
        )
        with self.database.read() as connection:
            return [(id, Status(status)) for id, status in connection.execute(query)]

    def held(self, worker_id: UUID) -> set[tuple[UUID, int]]:
        """Rows of this worker, with the attempt under which it holds them."""
        query = select(jobs.c.id, jobs.c.attempt).where(
            jobs.c.owner == worker_id, jobs.c.status == constant(Status.IN_PROGRESS)
        )
        with self.database.read() as connection:
            return {(id, attempt) for id, attempt in connection.execute(query)}

    def reap(self) -> Reaped:
        """Take rows back from workers whose lease ran out, without blame. Two reapers never take the same."""

        def work(connection: Connection) -> Reaped:
            lost = leases.lock(connection, workers.c.lease_until < now())
            took = [self._take_back(connection, worker_id, transitions.take_from_lost) for worker_id in lost]
            return Reaped(len(lost), sum(map(len, took)))

        return self.database.write(work)

    def confirm_crash(self, slot: str, *, successor: UUID) -> list[UUID]:
        """The slot's new process says that its predecessors crashed: their rows go back now, as suspects. Returns the
        rows they held."""

        def work(connection: Connection) -> list[UUID]:
            dead = leases.wait_and_lock(connection, (workers.c.slot == slot) & (workers.c.id != successor))
            took = (self._take_back(connection, worker_id, transitions.take_from_crashed) for worker_id in dead)
            return [row.id for moved in took for row in moved]

        return self.database.write(work)

    def guilty(self, ids: Collection[UUID]) -> set[UUID]:
        """Which of these jobs failed because they crash workers."""
        query = select(jobs.c.id).where(jobs.c.error_code == transitions.WORKER_CRASHED)
        with self.database.read() as connection:
            return set(connection.scalars(query.where(is_one_of(connection, jobs.c.id, list(ids)))))

    def expire_queued(self, limit: int) -> int:
        """Expire queued rows whose deadline passed, and batches that nobody came to read. Returns how many rows."""

        def work(connection: Connection) -> int:
            moved = transitions.expire_queued(connection, limit)
            batches.count(connection, moved)
            intake.expire_unread(connection)
            return len(moved)

        return self.database.write(work)

    def resume_cancelling(self) -> int:
        """Go on with batches whose cancelling was cut short by a crash; once a minute is enough."""
        return cancelling.resume(self.database)

    def _take_back(self, connection: Connection, worker_id: UUID, take: TakeBack) -> list[Moved]:
        moved = take(connection, worker_id, max_attempts=self.max_attempts)
        batches.count(connection, moved)
        leases.forget(connection, worker_id)
        return moved


def _commit(connection: Connection, worker_id: UUID, outcomes: Sequence[Outcome]) -> CommitResult:
    by_attempt = sorted(outcomes, key=lambda outcome: outcome.attempt)
    latest = {outcome.id: outcome for outcome in by_attempt}  # a job given back and claimed again may be here twice
    moved = dialects.of(connection).finish(connection, worker_id, list(latest.values()))
    batches.count(connection, moved, {id: _spent(outcome) for id, outcome in latest.items()})
    written = {row.id: row.status for row in moved}
    applied = frozenset(id for id, status in written.items() if status == latest[id].status)
    mine = _written_before(connection, [outcome for id, outcome in latest.items() if id not in written])
    return CommitResult(applied, mine, frozenset(latest) - applied - mine)


def _written_before(connection: Connection, outcomes: Sequence[Outcome]) -> frozenset[UUID]:
    """Which outcomes an earlier try of this commit wrote: an attempt has one owner, so nobody else can have."""
    if not outcomes:
        return frozenset()
    ids = [outcome.id for outcome in outcomes]
    query = select(jobs.c.id, jobs.c.attempt, jobs.c.status).where(is_one_of(connection, jobs.c.id, ids))
    there = {(row.id, row.attempt, row.status) for row in connection.execute(query)}
    return frozenset(o.id for o in outcomes if (o.id, o.attempt, o.status.value) in there)


def _spent(outcome: Outcome) -> tuple[int, int]:
    """Prompt tokens (each prompt's counted once) and output tokens of all choices."""
    return outcome.prompt_tokens, sum(choice.output_tokens for choice in outcome.completions)
