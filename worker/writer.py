"""The writer thread: commits finished rows in groups, each row fenced by its incarnation and attempt."""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from uuid import UUID

from models.claims import Claims
from models.errors import BatchmillError
from models.records import Outcome
from models.status import Status
from worker.backlog import Backlog
from worker.deliveries import Delivery, FinishedRow, Ledger
from worker.part import Part

log = logging.getLogger(__name__)

MAX_GROUP = 1024  # rows a transaction: enough to spread its cost, small enough to bound its locks
MAX_GROUP_BYTES = 16 << 20  # of memory: how long the statement is
RETRY_SECONDS = 0.5
IDLE_SECONDS = 0.2


class Writer(Part):
    """Never decodes again because a write failed: results stay here until written or refused by the fence.

    That holds for a lease that ran out, too: as long as nobody reaped it the results still count, and afterwards the
    fence refuses them. While more wait than memory should hold, no new rows are wanted: `is_behind`.
    """

    def __init__(
        self,
        claims: Claims,
        ledger: Ledger,
        backlog: Backlog,
        *,
        on_finished: Callable[[Sequence[Delivery]], None],
        on_first_completed: Callable[[], None],
        on_crash: Callable[[], None],
    ) -> None:
        super().__init__("writer", on_crash=on_crash)
        self._claims, self._ledger, self._backlog, self._on_finished = claims, ledger, backlog, on_finished
        self._on_first_completed: Callable[[], None] | None = on_first_completed
        self.counts: Counter[str] = Counter()

    @property
    def num_waiting(self) -> int:
        """Finished rows not taken to be written yet."""
        return len(self._backlog)

    @property
    def is_behind(self) -> bool:
        """Whether so much waits for the database that new rows are not wanted."""
        return self._backlog.is_full

    def put(self, finished: FinishedRow) -> None:
        """Hand over a finished row."""
        self._backlog.put(finished)

    def work(self) -> None:
        """Take a group, commit it, tell Celery. When told to stop, write what is there first; while the database is
        away that means to try once more."""
        while not (self._stopping.is_set() and not len(self._backlog)):
            group = self._backlog.take(limit=MAX_GROUP, max_bytes=MAX_GROUP_BYTES, timeout_seconds=IDLE_SECONDS)
            if group and self._commit_until_done(group):
                self._on_finished(self._ledger.let_go_of(finished.row for finished in group))

    def _commit_until_done(self, group: list[FinishedRow]) -> bool:
        """Try until the database answers. A commit whose reply was lost is simply run again: the store tells
        "already mine" from "refused". Returns False when told to stop meanwhile; the lease then gives the rows back.
        """
        by_worker: dict[UUID, list[Outcome]] = defaultdict(list)
        for finished in group:
            by_worker[finished.row.worker_id].append(finished.outcome)
        for worker_id, outcomes in by_worker.items():
            while not self._commit(worker_id, outcomes):
                if self._stopping.wait(RETRY_SECONDS):
                    return False
        return True

    def _commit(self, worker_id: UUID, outcomes: list[Outcome]) -> bool:
        try:
            result = self._claims.commit(worker_id, outcomes)
        except BatchmillError as error:
            log.warning("commit failed, trying again", extra={"action": "commit_failed", "reason": str(error)})
            return False
        self.counts["committed"] += len(result.applied) + len(result.already_mine)
        self.counts["fenced"] += len(result.fenced)
        if self._on_first_completed and any(outcome.status == Status.COMPLETED for outcome in outcomes):
            self._on_first_completed()
            self._on_first_completed = None
        return True
