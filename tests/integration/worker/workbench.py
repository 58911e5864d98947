"""The threads of a worker in the test's own process, around an engine of the test's choice, on a real database."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from uuid import UUID

from redis import Redis

from models.claims import Claims
from models.database import Database
from models.disk import DiskWatch
from models.ids import uuid7
from models.records import JobRecord, NewJob, WorkerRecord
from models.status import FINAL
from models.store import Store
from tests.waiting import wait_until
from worker.backlog import Backlog
from worker.brake import Brake
from worker.decoder import Decoder
from worker.deliveries import Delivery, Ledger
from worker.feeder import Feeder
from worker.hints import HintRepair
from worker.keeper import Keeper
from worker.lease import Lease
from worker.loading import DecodeEngine
from worker.part import Part
from worker.staging import Staging
from worker.streamer import Streamer, feed_client
from worker.writer import Writer

LEASE_SECONDS = 36_000.0  # no test waits for its end
MIN_FREE_DISK = 0.05


class Workbench:
    """Feeder, decoder, writer and keeper, wired as the mill wires them, without Celery."""

    def __init__(
        self,
        database: Database,
        engine: DecodeEngine,
        *,
        redis_url: str = "redis://127.0.0.1:1",
        max_result_bytes: int = 64 << 20,
        disks: Sequence[Path] = (),
    ) -> None:
        self.store, self.claims, self.engine = Store(database), Claims(database), engine
        self.crashes: list[str] = []
        record = WorkerRecord(uuid7(), "host/bench/0", "host", 1, "noop", rows=engine.info.rows)
        self.lease = Lease(self.claims, record, LEASE_SECONDS)
        self.ledger, self.staging = Ledger(), Staging(engine.info.rows)
        self.backlog = Backlog(Path(tempfile.gettempdir()), max_result_bytes)
        self.writer = Writer(
            self.claims,
            self.ledger,
            self.backlog,
            on_finished=_ignore,
            on_first_completed=lambda: None,
            on_crash=self._crash,
        )
        brake = Brake(DiskWatch(disks, MIN_FREE_DISK), is_behind=lambda: self.writer.is_behind)
        self.streamer = Streamer(feed_client(redis_url), on_crash=self._crash)
        self.decoder = Decoder(
            engine,
            self.staging,
            self.ledger,
            refill_wait_seconds=0,
            finish=self.writer.put,
            publish=self.streamer.put,
            on_room=lambda: None,
            on_crash=self._crash,
        )
        self.feeder = Feeder(
            self.claims,
            engine,
            self.lease,
            self.staging,
            self.ledger,
            brake,
            finish=self.writer.put,
            on_accepted=_ignore,
            on_finished=_ignore,
            on_crash=self._crash,
        )
        self.keeper = Keeper(
            self.claims,
            self.store,
            self.lease,
            ledger=self.ledger,
            feeder=self.feeder,
            decoder=self.decoder,
            repair=HintRepair(self.store, Redis.from_url(redis_url), model="noop"),
            on_crash=self._crash,
        )
        self._parts: tuple[Part, ...] = (self.writer, self.streamer, self.decoder, self.feeder, self.keeper)

    def __enter__(self) -> "Workbench":
        self.lease.begin()
        for part in self._parts:
            part.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in reversed(self._parts):
            part.stop()
            part.join(10)
        assert not self.crashes

    def submit(self, *bodies: Mapping[str, object], endpoint: str = "/v1/completions") -> list[UUID]:
        """Store jobs and hand their ids to the feeder, as a message would."""
        new = [NewJob(uuid7(), "noop", endpoint, {"seed": 0, **body}) for body in bodies]
        self.store.submit(new)
        self.feeder.deliver(Delivery([job.id for job in new]))
        return [job.id for job in new]

    def result(self, job_id: UUID) -> JobRecord:
        """Wait for a job's end."""
        wait_until(lambda: self.store.statuses([job_id])[job_id] in FINAL)
        job = self.store.job(job_id)
        assert job is not None
        return job

    def _crash(self) -> None:
        self.crashes.append("crash")


def _ignore(deliveries: Sequence[Delivery]) -> None:
    """Celery is told, which is not here."""
