"""The keeper thread: heartbeat, cancellations and deadlines, dead workers, lost hints. Stands apart from decoding,
with a database connection of its own, so that a long commit never looks like death."""

import logging
import os
import time
from collections.abc import Callable, Sequence

from celery import Celery
from celery.worker import state as celery_state

from models.claims import Claims
from models.errors import BatchmillError, BrokerUnavailable
from models.ids import job_id_of_task
from models.records import Outcome
from models.store import Store
from worker.decoder import Decoder
from worker.deliveries import Delivery, Ledger
from worker.feeder import Feeder
from worker.hints import QUIET_SECONDS, HintRepair, relay
from worker.lease import Lease
from worker.part import Part

log = logging.getLogger(__name__)

MAX_BEAT_SECONDS = 1.5
LOOK_SECONDS = 0.4  # between looks for rows to stop: a cancelled row frees its slot well within a second
BEATS_PER_LEASE = 5
PICK_UP_LIMIT = 1024  # rows taken from the table at a time while there is no broker
PICK_UP_SECONDS = 0.1  # then the next look: without messages the table has to be asked
EXIT_HUNG = 71  # sysexits' EX_OSERR: the supervisor starts a successor, whose slot confirms the crash
EXPIRE_LIMIT = 1000
SWEEPS_PER_RESUME = 40  # about a minute: only a crash in the middle of cancelling a batch leaves it half done


class Keeper(Part):
    """One beat after the other, and between beats a look for rows to stop; a step that fails is logged and tried again
    at the next."""

    def __init__(
        self,
        app: Celery,
        claims: Claims,
        store: Store,
        lease: Lease,
        *,
        ledger: Ledger,
        feeder: Feeder,
        decoder: Decoder,
        repair: HintRepair,
        on_finished: Callable[[Sequence[Delivery]], None],
        on_crash: Callable[[], None],
        hang_seconds: float,
    ) -> None:
        super().__init__("keeper", on_crash=on_crash)
        self._app, self._claims, self._store, self._lease = app, claims, store, lease
        self._ledger, self._feeder, self._decoder, self._repair = ledger, feeder, decoder, repair
        self._on_finished, self._hang_seconds = on_finished, hang_seconds
        self._revoked: set[str] = set()
        self._num_sweeps = 0
        self._beat_seconds = self._pause_seconds = min(MAX_BEAT_SECONDS, lease.lease_seconds / BEATS_PER_LEASE)

    def work(self) -> None:
        """Beat until stopped."""
        look = (self._revoke, self._stop_rows)
        beat = (self._heartbeat, *look, self._sweep, self._ring)
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

    def _heartbeat(self) -> None:
        """Renew the lease, but only while decoding gets on: a hung kernel must look dead, and then be dead."""
        if self._decoder.stalled_seconds > self._hang_seconds:
            log.critical("no decode step for %.0f s, giving up", self._hang_seconds, extra={"action": "hung"})
            os._exit(EXIT_HUNG)
        try:
            if self._lease.renew():
                return
        except BatchmillError:
            if self._lease.run_out:
                self._drop_rows()
            raise
        self._drop_rows()
        self._claims.release(self._lease.worker_id)  # what the database still counts as ours, we no longer hold
        self._lease.begin_again()

    def _drop_rows(self) -> None:
        """Stop decoding rows that belong to others by now."""
        job_ids = self._ledger.ids()
        if job_ids:
            log.warning("lease lost, dropping %d rows", len(job_ids), extra={"action": "lease_lost"})
            self._decoder.drop(set(job_ids))
            self._on_finished(self._ledger.let_go(job_ids))

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

    def _ring(self) -> None:
        """Publish rows that have no message. Without a broker, pick up our own model's rows directly."""
        try:
            lost = self._repair.check(num_waiting=self._feeder.num_waiting)
            if lost:
                log.info("%d queued rows had no message, publishing again", lost, extra={"action": "hints_repaired"})
            relay(self._app, self._store, model=self._repair.model)
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
