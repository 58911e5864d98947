"""The worker's parts and how they hang together: engine, lease, feeder, decoder, streamer, writer, keeper.

Built and stopped here, in order. Threads meet at queues only; heartbeat and keeper stand apart, each on a connection of
its own.
"""

import gc
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from models import migrations
from models.claims import Claims
from models.database import Database
from models.disk import watch_of
from models.errors import BatchmillError, ConfigurationError
from models.ids import uuid7
from models.logs import READY
from models.records import WorkerRecord
from models.settings import Settings
from models.status import DRAINING, UNHEALTHY
from models.store import Store
from worker.backlog import Backlog
from worker.brake import Brake
from worker.canary import sing
from worker.celery_app import BatchmillApp
from worker.crashes import EXIT_CRASHED, Stage, UnhealthyError, check_health
from worker.decoder import Decoder
from worker.deliveries import Delivery, Ledger
from worker.feeder import Feeder
from worker.heartbeat import Heartbeat, Holding, Watchdog
from worker.hints import HintRepair, redis_client
from worker.keeper import Keeper
from worker.lease import Lease, Slot
from worker.loading import DecodeEngine, describe_engine, device_name, load_engine
from worker.reader import Reader
from worker.redis_check import warn_of_eviction
from worker.staging import Staging
from worker.streamer import Streamer, feed_client
from worker.supply import Supply
from worker.writer import Writer

log = logging.getLogger(__name__)

Report = Callable[[Sequence[Delivery]], None]
JOIN_SECONDS = 5.0
DRAIN_POLL_SECONDS = 0.02


class Mill:
    """Everything a running worker holds."""

    def __init__(
        self,
        app: BatchmillApp,
        *,
        on_accepted: Report,
        on_finished: Report,
        on_room: Callable[[], None],
        on_drain: Callable[[], None],
        on_crash: Callable[[], None],
    ) -> None:
        """Load the model and connect. Raises ConfigurationError or EngineError with one clear sentence."""
        settings = app.settings
        self.model = settings.model_name
        self._settings = settings
        database = open_database(settings.database)
        self._claims = Claims(database, max_attempts=settings.max_attempts)
        self._slot = Slot.take(settings.state_dir)
        worker_id = uuid7()
        # At once: a model may take longer to load than a lease lasts.
        self._has_crashed = self._confirm_crash(successor=worker_id)
        self._engine = self._load(settings)
        self.rows = self._engine.info.rows
        self._ledger, self._staging = Ledger(), Staging(self.rows)
        self._lease = Lease(self._apart(), self._record(worker_id), settings.lease_seconds)
        backlog = Backlog(settings.state_dir, settings.max_result_bytes)
        self._writer = Writer(
            self._claims,
            self._ledger,
            backlog,
            on_finished=on_finished,
            on_first_completed=partial(self._slot.crashes.reach, Stage.WORKED),
            on_crash=on_crash,
        )
        self._brake = Brake(watch_of(settings), is_behind=lambda: self._writer.is_behind)
        self._streamer = Streamer(feed_client(settings.broker), on_crash=on_crash)
        self._decoder = Decoder(
            self._engine,
            self._staging,
            self._ledger,
            refill_wait_seconds=settings.refill_wait_seconds,
            finish=self._writer.put,
            publish=self._streamer.put,
            on_room=on_room,
            on_crash=self._die,
        )
        self.feeder = Feeder(
            self._claims,
            self._engine,
            self._lease,
            self._staging,
            self._ledger,
            self._brake,
            finish=self._writer.put,
            on_accepted=on_accepted,
            on_finished=on_finished,
            on_crash=on_crash,
        )
        holding = Holding(self._decoder, self._ledger, on_finished)
        self._heartbeat = Heartbeat(self._lease, holding, on_drain=on_drain, on_crash=on_crash)
        self._watchdog = Watchdog(
            self._heartbeat, self._lease, holding, hang_seconds=settings.hang_seconds, on_crash=on_crash
        )
        self._keeper = self._make_keeper(on_crash)
        self._supply = self._make_supply(app, on_crash)
        self.reader = Reader(app, settings, self._lease, self._brake, on_crash=on_crash)

    def _confirm_crash(self, *, successor: UUID) -> bool:
        """Take back what the slot's last process held when it crashed, if it did."""
        taken_back = self._claims.confirm_crash(self._slot.name, successor=successor)
        if taken_back:
            log.warning(
                "%d rows of a crashed predecessor queued again", len(taken_back), extra={"action": "crash_seen"}
            )
        return self._slot.crashes.begin(taken_back)

    def _load(self, settings: Settings) -> DecodeEngine:
        try:
            return load_engine(settings)
        except Exception:
            self._slot.leave()  # no crash
            raise

    def _apart(self) -> Claims:
        """Claims on a connection of their own: a long commit must not delay them."""
        return Claims(Database(self._settings.database, pool_size=1), max_attempts=self._settings.max_attempts)

    def _make_supply(self, app: BatchmillApp, on_crash: Callable[[], None]) -> Supply:
        return Supply(
            app,
            Store(self._apart().database),
            redis_client(self._settings.broker),
            model=self.model,
            num_rows=self.rows,
            ageing_seconds=self._settings.ageing_seconds,
            on_crash=on_crash,
        )

    def _make_keeper(self, on_crash: Callable[[], None]) -> Keeper:
        claims = self._apart()
        store = Store(claims.database)
        return Keeper(
            claims,
            store,
            self._lease,
            ledger=self._ledger,
            feeder=self.feeder,
            decoder=self._decoder,
            repair=HintRepair(store, redis_client(self._settings.broker), model=self.model),
            on_crash=on_crash,
        )

    def _record(self, worker_id: UUID) -> WorkerRecord:
        info = self._engine.info
        return WorkerRecord(
            id=worker_id,
            slot=self._slot.name,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            model=self.model,
            rows=self.rows,
            max_model_len=info.max_model_len,
            dtype=info.dtype,
            device=device_name(self._settings, info.device),
        )

    def start(self) -> None:
        """Enter the workers table, see that the device works, start the threads. Raises UnhealthyError."""
        self._lease.begin()
        self._check_health()
        # What is loaded by now stays: the collector need not walk it again. A fifth of the CPU of a no-op job.
        gc.collect()
        gc.freeze()
        for thread in (
            *(self._heartbeat, self._writer, self._streamer, self._decoder),
            *(self._watchdog, self.feeder, self._keeper, self._supply, self.reader),
        ):
            thread.start()
        warn_of_eviction(redis_client(self._settings.broker))
        log.info("%s%s", READY, describe_engine(self._settings, self._engine.info), extra={"action": "ready"})

    def _check_health(self) -> None:
        """After crashes find out, before a row is claimed, whether the device is to blame. Raises UnhealthyError."""
        crashes = self._slot.crashes
        try:
            check_health(crashes.recent(), max_crashes=self._settings.max_crashes, guilty=self._claims.guilty)
        except UnhealthyError:
            self._show(UNHEALTHY)
            self._slot.leave()
            raise
        if self._has_crashed:
            crashes.reach(Stage.TRYING)
            sing(self._engine, hang_seconds=self._settings.hang_seconds)
            crashes.reach(Stage.STARTED)

    def _show(self, state: str) -> None:
        """Have others see this state, until the lease ends."""
        self._claims.heartbeat(self._lease.worker_id, lease_seconds=self._lease.lease_seconds, state=state)

    def _die(self) -> None:
        """The engine failed, perhaps for one of its rows: that is a crash, which the slot's next process confirms. Rows
        that were finished before are not to be blamed for it."""
        self._writer.stop()
        self._writer.join(JOIN_SECONDS)
        os._exit(EXIT_CRASHED)

    def drain(self, *, hurry: Callable[[], bool]) -> None:
        """Stop, in this order: claim nothing more; give back what has not begun; wait for what is being decoded, up
        to the grace time or until `hurry`; write what is finished; give back the rest; leave the workers table."""
        ends = time.monotonic() + self._settings.grace_seconds
        self._try(partial(self._show, DRAINING))
        self.reader.stop()
        self._supply.stop()
        self.feeder.stop()
        self.feeder.join(JOIN_SECONDS)
        self.reader.join(JOIN_SECONDS)
        self._supply.join(JOIN_SECONDS)
        waiting = self.feeder.unprepared() | self._staging.job_ids()
        self._decoder.drop(waiting)  # of a list of prompts some may be in the engine
        self._ledger.let_go(waiting)
        self._try(lambda: self._claims.release(self._lease.worker_id, list(waiting)))
        while len(self._ledger) and time.monotonic() < ends and not hurry():
            time.sleep(DRAIN_POLL_SECONDS)
        self._watchdog.stop()  # a decoder that is told to stop makes no progress
        self._watchdog.join(JOIN_SECONDS)
        self._decoder.stop()
        self._decoder.join(JOIN_SECONDS)
        self._writer.stop()
        self._streamer.stop()
        self._writer.join(JOIN_SECONDS)
        self._streamer.join(JOIN_SECONDS)
        self._keeper.stop()
        self._keeper.join(JOIN_SECONDS)
        self._heartbeat.stop()
        self._heartbeat.join(JOIN_SECONDS)
        self.give_back()

    def give_back(self) -> None:
        """Release every row and the lease, without blame. If the database is away, the lease runs out by itself."""
        held = len(self._ledger)
        self._try(lambda: self._claims.release(self._lease.worker_id))
        self._try(self._lease.end)
        self._slot.leave()
        log.info("stopped, %d rows given back", held, extra={"action": "stopped"})

    def stats(self) -> dict[str, Any]:
        """For `celery inspect stats`: what is live, what waits, what was written."""
        return {
            "model": self.model,
            "worker_id": str(self._lease.worker_id),
            "inbox": self.feeder.num_waiting,
            "staged": len(self._staging),
            "held": len(self._ledger),
            "unwritten": self._writer.num_waiting,
            "paused": self._brake.reason,
            **self._writer.counts,
            "engine": self._engine.stats(),
        }

    @staticmethod
    def _try(step: Callable[[], object]) -> None:
        """Shutting down goes on when the database is away."""
        try:
            step()
        except BatchmillError as error:
            log.warning("%s", error, extra={"action": "shutdown_step_failed"})


def open_database(url: str) -> Database:
    """Connect, and see that the schema is this version's. Raises ConfigurationError."""
    database = Database(url)
    database.log_warnings()
    try:
        current = migrations.is_current(database)
    except BatchmillError as error:
        raise ConfigurationError(f"the database cannot be used: {error.message}") from error
    if not current:
        raise ConfigurationError("the database is not at this version's schema: run `batchmill db upgrade`")
    return database
