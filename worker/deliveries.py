"""What a worker holds: messages delivered by Celery, the rows claimed for them, and which belongs to which."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from uuid import UUID

from models.records import ClaimedJob, NewJob, Outcome


@dataclass(eq=False)
class Delivery:
    """One message in our hands, or (without a message) ids the keeper found in the database itself.

    Celery's Request keeps only a weak reference to it; the inbox and the ledger keep it alive.
    """

    ids: list[UUID]
    job: NewJob | None = None  # set for an inline message; then ids is its one id
    priority: int = 0
    on_accepted: Callable[[], None] | None = None  # the rows are claimed: Celery acknowledges the message
    on_finished: Callable[[], None] | None = None  # the last row's result is committed
    num_open: int = field(default=0, init=False)  # claimed rows whose outcome is not committed

    def accepted(self) -> None:
        """Tell Celery that the rows are claimed."""
        if self.on_accepted is not None:
            self.on_accepted()

    def finished(self) -> None:
        """Tell Celery that every result is committed."""
        if self.on_finished is not None:
            self.on_finished()

    def terminate(self, signal: int | None = None) -> None:
        """Do nothing: a revoke reaches the rows through the jobs table, and a shutdown gives rows back."""


@dataclass(frozen=True, slots=True)
class Row:
    """A job claimed by one incarnation of this worker; `worker_id` and `attempt` fence its result."""

    worker_id: UUID
    job: ClaimedJob


@dataclass(frozen=True, slots=True)
class FinishedRow:
    """A row with its outcome, on its way to the database."""

    row: Row
    outcome: Outcome


class Ledger:
    """The rows this worker holds, by job id. Safe to use from every thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[UUID, tuple[Row, Delivery]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def row(self, job_id: UUID) -> Row | None:
        """The row held for a job, or None."""
        held = self._held.get(job_id)
        return held[0] if held else None

    def ids(self) -> list[UUID]:
        """Every job held."""
        with self._lock:
            return list(self._held)

    def hold(self, row: Row, delivery: Delivery) -> None:
        """Note a freshly claimed row."""
        with self._lock:
            delivery.num_open += 1
            self._held[row.job.id] = (row, delivery)

    def let_go(self, job_ids: Iterable[UUID]) -> list[Delivery]:
        """Forget rows; return the deliveries whose last row this was."""
        done = []
        with self._lock:
            for job_id in job_ids:
                _, delivery = self._held.pop(job_id, (None, None))
                if delivery is not None:
                    delivery.num_open -= 1
                    if delivery.num_open == 0:
                        done.append(delivery)
        return done
