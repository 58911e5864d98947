"""What a worker holds: messages delivered by Celery, the rows claimed for them, and which belongs to which."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from models.records import ClaimedJob, NewJob, Outcome


@dataclass(eq=False)
class Delivery:
    """One message in our hands, or (without a message) ids the keeper found in the database itself.

    Celery's Request keeps only a weak reference to it; the inbox and the ledger keep it alive.
    """

    ids: list[UUID]  # those still to be taken; the ledger takes them from the front as there is room
    job: NewJob | None = None  # set for an inline message; then ids is its one id
    priority: int = 0
    on_accepted: Callable[[], None] | None = None  # rows are claimed: Celery acknowledges the message
    on_finished: Callable[[], None] | None = None  # the last row's result is committed
    num_open: int = field(default=0, init=False)  # rows taken whose outcome is not committed

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to take and every row's outcome is committed."""
        return not self.ids and not self.num_open

    def accepted(self) -> None:
        """Tell Celery, once, that rows are claimed. Those of a long message that are not yet are found again by their
        keeper if this worker dies."""
        report, self.on_accepted = self.on_accepted, None
        if report is not None:
            report()

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


@dataclass(slots=True)
class _Held:
    """A row in our hands, and the message it came with."""

    row: Row
    delivery: Delivery
    has_ended: bool = False  # its outcome is on its way to the database


class Ledger:
    """The rows this worker holds, by job id. Safe to use from every thread.

    A job may be claimed anew while something of its former claim is still on its way, after a lost lease: then that
    former row is nobody's, and what is said of it changes nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[UUID, _Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def row(self, job_id: UUID) -> Row | None:
        """The row held for a job, or None."""
        held = self._held.get(job_id)
        return held.row if held else None

    def end(self, row: Row) -> bool:
        """Note that an outcome is on its way for a row; False: it is not open any more."""
        with self._lock:
            held = self._held.get(row.job.id)
            if held is None or held.row is not row or held.has_ended:
                return False
            held.has_ended = True
            return True

    def is_open(self, row: Row) -> bool:
        """Whether a row is held still, by this claim of it, and nothing has ended it."""
        held = self._held.get(row.job.id)
        return held is not None and held.row is row and not held.has_ended

    def ids(self) -> list[UUID]:
        """Every job held."""
        with self._lock:
            return list(self._held)

    def take(self, delivery: Delivery, count: int) -> list[UUID]:
        """Take up to `count` ids off a delivery, to be claimed."""
        with self._lock:
            taken, delivery.ids = delivery.ids[:count], delivery.ids[count:]
            delivery.num_open += len(taken)
            return taken

    def hold(self, delivery: Delivery, taken: Sequence[UUID], rows: Sequence[Row]) -> list[Delivery]:
        """Note which of the ids taken were claimed; the others are done, cancelled or held elsewhere. Returns the
        deliveries that are done with that: this one, or those of former claims of the same jobs."""
        with self._lock:
            done = [*filter(None, [self._remove(row.job.id) for row in rows if row.job.id in self._held])]
            self._held.update((row.job.id, _Held(row, delivery)) for row in rows)
            delivery.num_open -= len(taken) - len(rows)
            return [*done, delivery] if delivery.is_done else done

    def let_go(self, job_ids: Iterable[UUID]) -> list[Delivery]:
        """Forget rows; return the deliveries whose last row this was."""
        with self._lock:
            return [*filter(None, map(self._remove, job_ids))]

    def let_go_of(self, rows: Iterable[Row]) -> list[Delivery]:
        """Forget rows where it is these that are held; return the deliveries whose last row this was."""
        with self._lock:
            return [*filter(None, [self._remove(row.job.id) for row in rows if self.row(row.job.id) is row])]

    def _remove(self, job_id: UUID) -> Delivery | None:
        """Take a row out; gives its delivery where that is done now."""
        held = self._held.pop(job_id, None)
        if held is None:
            return None
        held.delivery.num_open -= 1
        return held.delivery if held.delivery.is_done else None
