"""The engine thread: staged rows into free slots, one decode step after the other, finished rows out."""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from models.records import Outcome
from worker.assembly import Assembly
from worker.deliveries import FinishedRow, Ledger, Row
from worker.engine.types import Output
from worker.loading import DecodeEngine
from worker.part import Part
from worker.rows import feed_delta, job_key
from worker.staging import StagedRow, Staging
from worker.streamer import Entry

IDLE_SECONDS = 0.2
REFILL_SHARE = 16  # a sixteenth of the rows is worth a prefill of its own


@dataclass(frozen=True, slots=True)
class Order:
    """Rows to stop decoding, and the outcome to write for them, if any."""

    job_ids: set[UUID]
    outcome: Outcome | None
    done: threading.Event = field(default_factory=threading.Event)


class Decoder(Part):
    """The only thread that touches the engine's slots."""

    def __init__(
        self,
        engine: DecodeEngine,
        staging: Staging,
        ledger: Ledger,
        *,
        refill_wait_seconds: float,
        finish: Callable[[FinishedRow], None],
        publish: Callable[[list[Entry]], None],
        on_room: Callable[[], None],
        on_crash: Callable[[], None],
    ) -> None:
        super().__init__("decoder", on_crash=on_crash)
        self._engine, self._staging, self._ledger = engine, staging, ledger
        self._refill_wait_seconds = refill_wait_seconds
        self._finish, self._publish, self._on_room = finish, publish, on_room
        self._jobs: dict[str, Assembly] = {}  # of which something was handed to the engine, by id
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._freed_at: float | None = None  # since when slots are free that staged rows could take
        self.progressed_at = time.monotonic()

    def drop(self, job_ids: set[UUID], *, wait: bool = True) -> None:
        """Stop decoding these rows at the next step; nothing is written for them. With `wait` return once that, and
        everything ordered before, is done."""
        order = Order(job_ids, None)
        self._orders.put(order)
        while wait and self.is_alive() and not order.done.wait(IDLE_SECONDS):
            pass

    def end(self, row: Row, outcome: Outcome) -> None:
        """Stop decoding a cancelled or expired row at the next step and write that outcome."""
        self._orders.put(Order({row.job.id}, outcome))

    @property
    def stalled_seconds(self) -> float:
        """How long the engine has had work without finishing a step."""
        return time.monotonic() - self.progressed_at

    def work(self) -> None:
        """Obey, admit, step, hand over."""
        while not self._stopping.is_set():
            self._obey()
            self._admit()
            if self._engine.has_work:
                outputs = self._engine.step()
                self._publish_deltas()
                self._hand_over(outputs)
            else:
                self._staging.wait_for_rows(IDLE_SECONDS)
            self.progressed_at = time.monotonic()

    def _obey(self) -> None:
        """Carry out what the keeper ordered since the last step."""
        while not self._orders.empty():
            order = self._orders.get()
            self._staging.remove(order.job_ids)
            for job_id in order.job_ids:
                self._forget(str(job_id))
                row = self._ledger.row(job_id)
                if order.outcome is not None and row is not None and self._ledger.end(row):
                    self._finish(FinishedRow(row, order.outcome))
            order.done.set()

    def _forget(self, key: str) -> None:
        """Stop decoding what runs of a job; what still comes of it is nobody's."""
        assembly = self._jobs.pop(key, None)
        for request_id in assembly.running if assembly else ():
            self._engine.cancel(request_id)

    def _admit(self) -> None:
        """Fill free slots, together where possible: a prefill of many rows costs little more than of one. What the next
        step will not begin stays staged, where others may still go before it."""
        free, num_staged = self._engine.num_free, len(self._staging)
        if not free or not num_staged:
            self._freed_at = None
            self._staging.note_unfilled(0)
            return
        if self._holds_back(free, num_staged):
            return
        self._freed_at = None
        longest_first = not self._staging.is_full
        while (wanted := self._engine.num_wanted) and len(self._staging):
            for entry in self._staging.take(wanted, longest_first=longest_first):
                if self._ledger.is_open(entry.row):  # else it was staged just after it was cancelled or lost
                    self._assembly(entry).running.add(entry.request_id)
                    self._engine.add(entry.sequence)
        self._staging.note_unfilled(0 if wanted else self._engine.num_free)
        self._on_room()

    def _holds_back(self, free: int, num_staged: int) -> bool:
        """Whether to leave free slots empty for more of them to be filled with: while they are few, more rows wait than
        they can take, others decode, and they are not empty for long."""
        now = time.monotonic()
        self._freed_at = now if self._freed_at is None else self._freed_at
        few = free * REFILL_SHARE < self._engine.info.rows and free < num_staged
        return few and self._engine.has_work and now - self._freed_at < self._refill_wait_seconds

    def _assembly(self, entry: StagedRow) -> Assembly:
        """The job's place among those being decoded, which a former claim of it may hold still."""
        key = job_key(entry.request_id)
        known = self._jobs.get(key)
        if known is not None and known.row is entry.row:
            return known
        if known is not None:
            self._forget(key)
        assembly = self._jobs[key] = Assembly(entry.row)
        return assembly

    def _publish_deltas(self) -> None:
        """Pass on what is new of jobs that stream."""
        entries = [
            (assembly.row.job.id, feed_delta(assembly.row.job, delta))
            for delta in self._engine.take_deltas()
            if (assembly := self._jobs.get(job_key(delta.request_id))) is not None
        ]
        if entries:
            self._publish(entries)

    def _hand_over(self, outputs: list[Output]) -> None:
        for output in outputs:
            key = job_key(output.request_id)
            assembly = self._jobs.get(key)
            if assembly is None:  # another prompt of its list failed in this same step
                continue
            outcome = assembly.take(output, fingerprint=self._engine.info.fingerprint)
            if outcome is None:
                continue
            self._forget(key)
            if self._ledger.end(assembly.row):  # else the job was claimed anew, or is nobody's here
                if not assembly.is_single:
                    self._staging.remove({assembly.row.job.id})
                self._finish(FinishedRow(assembly.row, outcome))
