"""What every step of the state machine does: act on the store, tell the plain model, compare; and what there is to
choose from.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import ClassVar
from uuid import UUID

from hypothesis.stateful import RuleBasedStateMachine
from sqlalchemy import update

from models.database import Database
from models.records import ClaimedJob, NewJob, Outcome
from models.status import Status
from models.tables import workers
from tests.integration.store.machine.laws import check
from tests.integration.store.machine.ops import Op, Ops
from tests.integration.store.machine.overlap import Overlap
from tests.integration.store.machine.plain import Plain
from tests.integration.store.machine.seen import clear, look
from tests.integration.store.making import choice, failed

PAST = datetime(2020, 1, 1, tzinfo=UTC)


class Driver(RuleBasedStateMachine):
    """One example: an empty database, then steps. Subclasses say on which database."""

    database: ClassVar[Database]
    overlap: ClassVar[Overlap]

    def __init__(self) -> None:
        super().__init__()
        clear(self.database)
        self.plain = Plain()
        self.ops = Ops(self.database, self.plain)
        self.seen = look(self.database)
        self.committed: list[tuple[UUID, list[Outcome]]] = []
        self.lines: list[tuple[UUID, list[NewJob]]] = []
        self.inline: list[NewJob] = []
        self.num_outcomes = 0

    # -- doing and checking -------------------------------------------------------------------------------------

    def do(self, op: Op) -> None:
        """Do a step and compare."""
        self._compare([(op, op.run())])

    def do_both(self, first: Op, second: Op) -> None:
        """Do two steps, the second while the first has yet to commit."""
        results = self.overlap.run(first.run, second.run)
        self._compare(list(zip((first, second), results, strict=True)))

    def _compare(self, done: Sequence[tuple[Op, object]]) -> None:
        before, self.seen = self.seen, look(self.database)
        ids = set(self.plain.rows)
        for index, (op, result) in enumerate(done):
            op.expect(result, self.seen, index > 0)
        is_crash = any(op.is_crash for op, _ in done)
        num_steps = sum(op.num_steps for op, _ in done)
        check(before, self.seen, is_crash=is_crash, deleted=ids - self.plain.rows.keys(), num_steps=num_steps)
        for name in ("rows", "batches", "workers", "keys"):
            assert getattr(self.seen, name) == getattr(self.plain, name)

    # -- what there is to choose from ---------------------------------------------------------------------------

    @property
    def ids(self) -> list[UUID]:
        """All jobs."""
        return list(self.plain.rows)

    @property
    def waiting(self) -> list[UUID]:
        """Jobs that may be claimed."""
        return [id for id, row in self.plain.rows.items() if row.is_waiting]

    @property
    def alive(self) -> list[UUID]:
        """Workers whose lease lasts."""
        return [worker for worker, lasts in self.plain.workers.items() if lasts]

    @property
    def known(self) -> list[UUID]:
        """Workers, also those whose lease ran out."""
        return list(self.plain.workers)

    @property
    def running(self) -> list[tuple[UUID, ClaimedJob]]:
        """Attempts that go on."""
        return [
            (worker, job)
            for worker, job in self.ops.handed_out
            if (row := self.plain.rows.get(job.id)) and (row.owner, row.attempt) == (worker, job.attempt)
        ]

    def outcomes(self, claimed: Sequence[ClaimedJob], *, fails: bool) -> list[Outcome]:
        """What became of attempts. No two completions say the same."""
        self.num_outcomes += 1
        said = (choice(f"text {self.num_outcomes}"), choice("second choice", choice_index=1, output_tokens=0))
        return [failed(job) if fails else Outcome(job.id, job.attempt, Status.COMPLETED, said) for job in claimed]

    def commit_of(self, worker: UUID, claimed: Sequence[ClaimedJob], *, fails: bool = False) -> None:
        """Commit outcomes, and keep them: the answer may be lost."""
        outcomes = self.outcomes(claimed, fails=fails)
        self.do(self.ops.commit(worker, outcomes))
        self.committed.append((worker, outcomes))

    def end_lease(self, worker: UUID) -> None:
        """Let its time be over, without waiting for it."""
        past = update(workers).where(workers.c.id == worker).values(heartbeat_at=PAST, lease_until=PAST)
        with self.database.transaction() as connection:
            connection.execute(past)
        self.plain.workers[worker] = False
