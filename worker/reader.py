"""The reader thread: batches whose input nobody reads become rows, one batch after the other.

A message only makes it look sooner. What is to be read, and by whom, is in the batches table: a message may be lost or
come twice, and a reader may die at any line.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import BinaryIO
from uuid import UUID

from celery import Celery

from models.aliases import resolve_model
from models.batch_store import BatchStore
from models.blobs import Blobs
from models.database import Database
from models.errors import BatchClosed, BatchmillError, BrokerUnavailable, IntakeLost, NotFound, RequestError
from models.records import BatchRecord
from models.settings import Settings
from models.status import BatchStatus
from models.store import Store
from worker.brake import Brake
from worker.hints import relay
from worker.intake import Reading, take_in
from worker.lease import Lease
from worker.part import Part
from worker.validation import Limits, validate

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.5  # between two looks without a message
FRESH_SECONDS = 1.0  # for which an unknown model stays unknown
MAX_FAILURES = 5  # of reading one batch, each for no reason that we know; then the batch is at fault


class Reader(Part):
    """Takes an intake, checks the file, inserts its lines, and has them announced chunk by chunk."""

    def __init__(
        self, app: Celery, settings: Settings, lease: Lease, brake: Brake, *, on_crash: Callable[[], None]
    ) -> None:
        """Raises ConfigurationError where the settings name no place for files."""
        super().__init__("reader", on_crash=on_crash)
        self._app, self._settings, self._lease, self._brake = app, settings, lease, brake
        database = Database(settings.database, pool_size=1)
        self._batches, self._store, self._blobs = BatchStore(database), Store(database), Blobs(settings.blobs)
        self._models = ModelNames(settings, self._store)
        self._woken = threading.Event()
        self._failures: Counter[UUID] = Counter()

    def wake(self) -> None:
        """Look now. Called by the hub thread."""
        self._woken.set()

    def stop(self) -> None:
        """Stop at the end of a chunk and give the rest back."""
        super().stop()
        self._woken.set()

    def work(self) -> None:
        """Look, read, until stopped."""
        while not self._stopping.is_set():
            self._woken.wait(LOOK_SECONDS)
            self._woken.clear()
            try:
                while not (self._stopping.is_set() or self._brake.reason) and self._read_next():
                    pass
            except BatchmillError as error:
                log.warning("%s", error, extra={"action": "intake_interrupted"})

    def _read_next(self) -> bool:
        """Read a batch; False: there was none. Raises BatchmillError where trying again helps, now or elsewhere."""
        owner = self._lease.worker_id
        batch = self._batches.take_intake(owner)
        if batch is None:
            return False
        try:
            self._read(batch, owner)
        except (BatchClosed, IntakeLost) as error:
            log.info("%s", error, extra={"action": "intake_ended", "batch_id": str(batch.id)})
        except BatchmillError:
            raise
        except Exception:
            log.exception("reading a batch failed", extra={"action": "intake_failed", "batch_id": str(batch.id)})
            self._give_up_at_last(batch.id, owner)
            return False
        return True

    def _read(self, batch: BatchRecord, owner: UUID) -> None:
        """Both passes. Whatever is committed by now stays, when this ends early."""
        try:
            file = self._blobs.open(batch.input_file_id) if batch.input_file_id else None
        except NotFound:
            file = None
        if file is None:
            self._batches.fail(batch.id, [problem("invalid_file", "the input file is gone")], owner)
            return
        with file:
            if batch.status is BatchStatus.VALIDATING:
                checked = self._validate(batch, file, owner)
                if checked is None:
                    return
                batch = checked
            reading = Reading(self._models.resolve, self._settings.max_line_bytes, self._settings.strict, owner)
            if take_in(self._batches, batch, file, reading, on_chunk=self._announce):
                log.info("input read", extra={"action": "intake_done", "batch_id": str(batch.id)})
            else:
                self._batches.give_back_intake(batch.id, owner)

    def _validate(self, batch: BatchRecord, file: BinaryIO, owner: UUID) -> BatchRecord | None:
        """The batch in progress; None where its file is bad or we are to stop."""

        def go_on(num_lines: int) -> bool:
            self._batches.note_validated(batch.id, owner, num_lines)
            return not self._stopping.is_set()

        limits = Limits(batch.endpoint, self._settings.max_line_bytes, self._settings.max_batch_requests)
        verdict = validate(file, limits, go_on=go_on)
        if verdict is None:
            self._batches.give_back_intake(batch.id, owner)
        elif verdict.errors:
            self._batches.fail(batch.id, verdict.errors, owner)
        else:
            return self._batches.validated(batch.id, owner, verdict.num_requests)
        return None

    def _announce(self, models: frozenset[str]) -> bool:
        """Have the new rows decoded while the next ones are read."""
        try:
            for model in sorted(models):
                relay(self._app, self._store, model=model)
        except BrokerUnavailable:
            log.debug("hints not published; the keepers find the rows")
        return not self._stopping.is_set()

    def _give_up_at_last(self, batch_id: UUID, owner: UUID) -> None:
        """An error that we do not know may pass, as those of an object store do; but not for ever."""
        self._failures[batch_id] += 1
        if self._failures[batch_id] >= MAX_FAILURES:
            self._batches.fail(batch_id, [problem("internal_error", "the input file could not be read")], owner)


class ModelNames:
    """What a line's `model` may name: models of live workers, this worker's, and those that aliases stand for."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._aliases, self._store = settings.model_aliases, store
        self._named = frozenset({settings.model_name, *settings.model_aliases.values()})
        self._alive: frozenset[str] = frozenset()
        self._fresh_until = 0.0

    def resolve(self, name: str | None) -> str:
        """The model that a name or an alias means. Raises RequestError."""
        if name is None:
            raise RequestError("missing_required_parameter", "model is required", param="model")
        model = resolve_model(name, self._aliases)
        if model in self._named or model in self._live():
            return model
        raise RequestError("model_not_found", "the model does not exist; GET /v1/models lists what does", param="model")

    def _live(self) -> frozenset[str]:
        if time.monotonic() > self._fresh_until:
            self._alive = frozenset(worker.model for worker in self._store.workers())
            self._fresh_until = time.monotonic() + FRESH_SECONDS
        return self._alive


def problem(code: str, message: str) -> dict[str, object]:
    """What is wrong with a file as a whole, as OpenAI lists it."""
    return {"code": code, "message": message, "param": None, "line": None}
