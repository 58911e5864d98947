"""The lease's two threads: one renews it, the other goes by the clock and asks nobody.

The heartbeat shares its connection with nothing, so that neither a long commit nor a slow sweep looks like death. It
may still wait for a database that does not answer; that must not keep rows alive here which others may claim by then.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.errors import BatchmillError
from models.status import DRAINING
from worker.decoder import Decoder
from worker.deliveries import Delivery, Ledger
from worker.lease import Lease
from worker.part import Part

log = logging.getLogger(__name__)

MAX_BEAT_SECONDS = 1.5
BEATS_PER_LEASE = 5
LOOKS_PER_LEASE = 40  # of the watchdog: it gives up a tenth of a lease before the end, and then rows end at a step
MAX_LOOK_SECONDS = 0.5
EXIT_HUNG = 71  # sysexits' EX_OSERR: the supervisor starts a successor, whose slot confirms the crash


@dataclass(frozen=True, slots=True)
class Holding:
    """What is being decoded under the lease."""

    decoder: Decoder
    ledger: Ledger
    on_finished: Callable[[Sequence[Delivery]], None]

    def drop(self, *, wait: bool) -> None:
        """Stop decoding every row, for they belong to others by now, or soon. With `wait` none is decoded any more,
        nor will one be dropped that is claimed anew, when this returns."""
        job_ids = self.ledger.ids()
        if job_ids:
            log.warning("lease lost, dropping %d rows", len(job_ids), extra={"action": "lease_lost"})
        if job_ids or wait:
            self.decoder.drop(set(job_ids), wait=wait)
            self.on_finished(self.ledger.let_go(job_ids))


def beat_seconds(lease_seconds: float) -> float:
    """The time between two heartbeats."""
    return min(MAX_BEAT_SECONDS, lease_seconds / BEATS_PER_LEASE)


class Heartbeat(Part):
    """Renews the lease. Once it is lost the worker begins anew, as another incarnation. Passes on an order to drain."""

    def __init__(
        self, lease: Lease, holding: Holding, *, on_drain: Callable[[], None], on_crash: Callable[[], None]
    ) -> None:
        super().__init__("heartbeat", on_crash=on_crash)
        self._lease, self._holding, self._on_drain = lease, holding, on_drain
        self._is_draining = False
        self._beaten_at = time.monotonic()

    @property
    def stalled_seconds(self) -> float:
        """How long ago a beat last ended, well or not."""
        return time.monotonic() - self._beaten_at

    def work(self) -> None:
        """Beat until stopped. A beat that fails is tried again at the next."""
        self._beaten_at = time.monotonic()
        while not self._stopping.wait(beat_seconds(self._lease.lease_seconds)):
            try:
                self._beat()
            except BatchmillError as error:
                log.warning("%s", error, extra={"action": "heartbeat_failed"})
            self._beaten_at = time.monotonic()

    def _beat(self) -> None:
        state = self._lease.renew()
        if state is None:
            self._begin_again()
        elif state == DRAINING and not self._is_draining:
            self._is_draining = True
            log.info("told to drain", extra={"action": "drain"})
            self._on_drain()

    def _begin_again(self) -> None:
        """Waiting for the rows to end matters: an order to drop a row that is carried out after the row was claimed
        again would drop the new attempt, and nobody would ever end it."""
        self._holding.drop(wait=True)
        self._lease.end()  # what the database still counts as ours, we no longer hold
        self._lease.begin_again()


class Watchdog(Part):
    """Waits for nothing but the clock: neither for the database nor for the decoder, which is what may hang."""

    def __init__(
        self,
        heartbeat: Heartbeat,
        lease: Lease,
        holding: Holding,
        *,
        hang_seconds: float,
        on_crash: Callable[[], None],
    ) -> None:
        super().__init__("watchdog", on_crash=on_crash)
        self._heartbeat, self._lease, self._holding = heartbeat, lease, holding
        self._hang_seconds = hang_seconds

    def work(self) -> None:
        """Look until stopped."""
        while not self._stopping.wait(min(MAX_LOOK_SECONDS, self._lease.lease_seconds / LOOKS_PER_LEASE)):
            self._look()

    def _look(self) -> None:
        """A hung kernel must look dead, and then be dead; rows end before another worker may claim them."""
        if self._holding.decoder.stalled_seconds > self._hang_seconds:
            self._die("decode step")
        if self._heartbeat.stalled_seconds > self._hang_seconds:  # a connection that will never answer
            self._die("heartbeat")
        if self._lease.has_run_out:
            self._lease.give_up()
            self._holding.drop(wait=False)

    def _die(self, missing: str) -> None:
        log.critical("no %s for %.0f s, giving up", missing, self._hang_seconds, extra={"action": "hung"})
        os._exit(EXIT_HUNG)
