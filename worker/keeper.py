"""The keeper thread: cancellations and deadlines, dead workers, lost hints, rows nobody knows of. Stands apart from
decoding, with a database connection of its own."""

import logging
import time
from collections.abc import Callable
from uuid import UUID

from celery.worker import state as celery_state

from models.claims import Claims
from models.errors import BatchmillError, BrokerUnavailable
from models.ids import job_id_of_task
from models.records import Outcome
from models.store import Store
from worker.decoder import Decoder
from worker.deliveries import Delivery, Ledger
from worker.feeder import Feeder
from worker.heartbeat import beat_seconds
from worker.hints import QUIET_SECONDS, HintRepair
from worker.lease import Lease
from worker.part import Part

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.4  # between looks for rows to stop: a cancelled row frees its slot well within a second
PICK_UP_LIMIT = 1024  # rows taken from the table at a time while there is no broker
PICK_UP_SECONDS = 0.1  # then the next look: without messages the table has to be asked
EXPIRE_LIMIT = 1000
UNKNOWN_SECONDS = 3.0  # for which a claimed row may be on its way to us
SWEEPS_PER_RESUME = 40  # about a minute: only a crash in the middle of cancelling a batch leaves it half done


class Keeper(Part):
    """One beat after the other, and between beats a look for rows to stop; a step that fails is logged and tried again
    at the next."""

    def __init__(
        self,
        claims: Claims,
        store: Store,
        lease: Lease,
        *,
        ledger: Ledger,
        feeder: Feeder,
        decoder: Decoder,
        repair: HintRepair,
        on_crash: Callable[[], None],
    ) -> None:
        super().__init__("keeper", on_crash=on_crash)
        self._claims, self._store, self._lease = claims, store, lease
        self._ledger, self._feeder, self._decoder, self._repair = ledger, feeder, decoder, repair
        self._revoked: set[str] = set()
        self._num_sweeps = 0
        self._unknown: dict[tuple[UUID, int], float] = {}  # when first seen, by job and attempt
        self._beat_seconds = self._pause_seconds = beat_seconds(lease.lease_seconds)

    def work(self) -> None:
        """Beat until stopped."""
        look = (self._revoke, self._stop_rows)
        beat = (*look, self._sweep, self._give_back_unknown, self._ring)
        began = time.monotonic()
        while not self._stopping.wait(min(self._pause_seconds, LOOK_SECONDS)):
            is_due = time.monotonic() - began >= self._pause_seconds
            if is_due:
                began, self._pause_seconds = time.monotonic(), self._beat_seconds
            for step in beat if is_due else look:
                try:
                    step()
                except BatchmillError as error:
                    log.warning("%s", error, extra={"action": f"keeper{step.__name__}"})

    def _revoke(self) -> None:
        """Carry Celery's revokes into the jobs table, also those of ids inside a chunk message."""
        revoked = set(celery_state.revoked)
        for task_id in revoked - self._revoked:
            self._store.cancel(job_id_of_task(task_id))
        self._revoked = revoked

    def _stop_rows(self) -> None:
        """End rows that were cancelled or whose deadline passed; the engine lets go at its next step."""
        if not len(self._ledger):
            return
        for job_id, status in self._claims.to_stop(self._lease.worker_id):
            row = self._ledger.row(job_id)
            if row is not None:
                self._decoder.end(row, Outcome(job_id, row.job.attempt, status))

    def _sweep(self) -> None:
        """Give back the rows of workers whose lease ran out; expire queued rows past their deadline."""
        reaped = self._claims.reap()
        if reaped.num_workers:
            log.warning(
                "%d dead workers, %d rows queued again",
                reaped.num_workers,
                reaped.num_jobs,
                extra={"action": "reaped"},
            )
        self._claims.expire_queued(EXPIRE_LIMIT)
        self._num_sweeps += 1
        if self._num_sweeps % SWEEPS_PER_RESUME == 0:
            self._claims.resume_cancelling()

    def _give_back_unknown(self) -> None:
        """Give back rows that the database counts as ours and we do not: the answer to their claim was lost."""
        seen_at, worker_id = time.monotonic(), self._lease.worker_id
        held = self._claims.held(worker_id)
        self._unknown = {row: self._unknown.get(row, seen_at) for row in held if self._ledger.row(row[0]) is None}
        lost = [job_id for (job_id, _), since in self._unknown.items() if seen_at - since >= UNKNOWN_SECONDS]
        if lost:
            number = self._claims.release(worker_id, lost)
            log.warning("%d rows whose claim was never answered queued again", number, extra={"action": "claim_lost"})

    def _ring(self) -> None:
        """Find out what messages are gone. Without a broker, pick up our own model's rows directly."""
        try:
            lost = self._repair.check(num_waiting=self._feeder.num_waiting)
            if lost:
                log.info("%d queued rows had no message, publishing again", lost, extra={"action": "hints_repaired"})
        except BrokerUnavailable:
            if self._feeder.wants_more:
                self._pick_up()
            raise

    def _pick_up(self) -> None:
        """Take rows straight from the table, also those whose message may be lying in the Redis that is away."""
        model = self._repair.model
        self._store.unpublish_queued(model=model, older_than_seconds=QUIET_SECONDS, limit=PICK_UP_LIMIT)
        hints = self._store.take_unpublished(PICK_UP_LIMIT, model=model)
        if hints:
            self._feeder.deliver(Delivery([hint.id for hint in hints]))
            self._pause_seconds = PICK_UP_SECONDS
