"""Batches of input files for workers that run as processes."""

import time
from collections.abc import Iterable, Iterator
from typing import Any
from uuid import UUID

import orjson

from models.batch_store import BatchStore
from models.blobs import Blobs
from models.file_store import FileStore
from models.ids import uuid7
from models.messages import INTAKE, INTAKE_QUEUE
from models.records import DEFAULT_TENANT, BatchRecord, JobRecord, NewBatch, NewFile
from models.status import FINAL_BATCH, BatchStatus
from tests.integration.worker.conftest import Station
from tests.waiting import wait_until

ENDPOINT = "/v1/completions"
PATIENCE_SECONDS = 60.0
PAGE = 5000


def line(number: int, **body: Any) -> bytes:  # noqa: ANN401 (any field)
    """A line of an input file, for the no-op engine."""
    full = {"model": "noop", "prompt": f"prompt {number}", "max_tokens": 2, **body}
    return orjson.dumps({"custom_id": f"r{number}", "method": "POST", "url": ENDPOINT, "body": full}) + b"\n"


class Desk:
    """What a service does for a batch: it stores the file and the batch, and rings."""

    def __init__(self, station: Station) -> None:
        self.station = station
        self.batches = BatchStore(station.database)
        self.blobs = Blobs(str(station.folder / "state" / "files"))

    def submit(self, lines: Iterable[bytes], *, ring: bool = True, **changes: Any) -> UUID:  # noqa: ANN401
        """Store a file and a batch of it; without `ring` the message is lost."""
        file_id, num_bytes = uuid7(), 0
        with self.blobs.writer(file_id) as writer:
            for part in lines:
                writer.write(part)
                num_bytes += len(part)
        FileStore(self.station.database).create(NewFile(file_id, DEFAULT_TENANT, "batch", "in.jsonl", num_bytes))
        batch = NewBatch(uuid7(), ENDPOINT, input_file_id=file_id, **changes)
        self.batches.create(batch)
        if ring:
            self.ring(batch.id)
        return batch.id

    def ring(self, batch_id: UUID) -> None:
        """Send the message that a batch is to be read."""
        self.station.app.send_task(INTAKE, args=(str(batch_id),), queue=INTAKE_QUEUE, priority=0)

    def read(self, batch_id: UUID) -> BatchRecord:
        """The batch as it stands."""
        batch = self.batches.get(batch_id)
        assert batch is not None
        return batch

    def wait(self, batch_id: UUID, *, status: BatchStatus | None = None) -> BatchRecord:
        """Wait for the end of a batch, or for a status before it."""
        wanted = FINAL_BATCH if status is None else {status}
        wait_until(lambda: self.read(batch_id).status in wanted, PATIENCE_SECONDS)
        return self.read(batch_id)

    def wait_for_lines(self, batch_id: UUID, number: int) -> None:
        """Wait until so many lines are rows."""
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while self.read(batch_id).num_total < number:
            assert time.monotonic() < give_up_at
            time.sleep(0.001)

    def rows(self, batch_id: UUID) -> Iterator[JobRecord]:
        """Every row, in the order of the lines."""
        after = -1
        while page := self.batches.results(batch_id, after_line=after, limit=PAGE):
            yield from page
            after = page[-1].line or 0
