"""The feeder thread: takes delivered messages, claims their rows in one transaction, prepares them for the engine."""

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple
from uuid import UUID

from models.claims import Claims
from models.errors import BatchmillError, RequestError
from models.records import ClaimedJob
from models.suspects import Level, Suspects
from worker.brake import Brake
from worker.company import Turns
from worker.deliveries import Delivery, FinishedRow, Ledger, Row
from worker.engine.types import RowError
from worker.lease import Lease
from worker.loading import DecodeEngine
from worker.part import Part
from worker.rows import engine_requests, failed, num_prompts
from worker.staging import Prepared, Staging

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0  # between tries while the database is away; the messages stay unacknowledged meanwhile
IDLE_SECONDS = 0.2
RUN_EMPTY_POLL_SECONDS = 0.01


class Portion(NamedTuple):
    """Ids of one delivery, taken to be claimed now."""

    delivery: Delivery
    ids: list[UUID]


class Feeder(Part):
    """Claims as much as the engine can soon use, and no more: what is not claimed, another worker can take."""

    def __init__(
        self,
        claims: Claims,
        engine: DecodeEngine,
        lease: Lease,
        staging: Staging,
        ledger: Ledger,
        brake: Brake,
        *,
        finish: Callable[[FinishedRow], None],
        on_accepted: Callable[[Sequence[Delivery]], None],
        on_finished: Callable[[Sequence[Delivery]], None],
        on_crash: Callable[[], None],
    ) -> None:
        super().__init__("feeder", on_crash=on_crash)
        self._claims, self._engine, self._lease = claims, engine, lease
        self._staging, self._ledger, self._brake = staging, ledger, brake
        self._finish, self._on_accepted, self._on_finished = finish, on_accepted, on_finished
        # (-priority, order of arrival, delivery): the higher priority first, then the earlier message
        self._inbox: queue.PriorityQueue[tuple[int, int, Delivery]] = queue.PriorityQueue()
        self._claimed: deque[Row] = deque()  # not prepared yet
        self._turns = Turns()
        self._requests_per_job = 1  # of the last claim
        self._lock = threading.Lock()
        self._arrivals = 0
        self._num_waiting = 0

    @property
    def num_waiting(self) -> int:
        """Jobs delivered and not yet claimed."""
        return self._num_waiting

    @property
    def wants_more(self) -> bool:
        """Whether fewer jobs stand ready than the staging has room for, and claims are wanted."""
        num_ready = self._num_waiting + len(self._claimed) + len(self._staging)
        return num_ready < self._staging.room and not self._brake.reason

    def unprepared(self) -> set[UUID]:
        """Jobs claimed and not yet staged, once stopped."""
        return {row.job.id for row in [*self._claimed]}

    def deliver(self, delivery: Delivery) -> None:
        """Take a message from the hub thread: no I/O here."""
        with self._lock:
            self._arrivals += 1
            self._num_waiting += len(delivery.ids)
        self._inbox.put((-delivery.priority, self._arrivals, delivery))

    def work(self) -> None:
        """Take, claim, prepare, until stopped."""
        while not self._stopping.is_set():
            room = self._staging.wait_for_room(IDLE_SECONDS)
            if room <= 0:
                continue
            if self._claimed:
                self._stage(room)
            elif self._brake.reason:
                self._stopping.wait(IDLE_SECONDS)
            elif self._turns.suspects_are_due:
                self._serve_suspects()
            elif portions := self._take(max(room // self._requests_per_job, 1)):
                self._claim_until_done(portions, Level.NONE)
                self._turns.fresh_claimed()
            else:
                self._turns.nothing_fresh()

    def _serve_suspects(self) -> None:
        """Let the engine run empty, claim suspects of one level, and let them finish with nothing else beside them."""
        found = self._look_for_suspects()
        if found and self._run_empty():
            found = self._look_for_suspects()  # another worker may have taken them meanwhile
        if found is None:
            self._turns.no_suspects()
            return
        self._turns.suspects_claimed()
        delivery = Delivery(found.ids)
        with self._lock:
            self._num_waiting += len(found.ids)
        self._claim_until_done([Portion(delivery, self._ledger.take(delivery, len(found.ids)))], found.level)
        self._run_empty()

    def _look_for_suspects(self) -> Suspects | None:
        try:
            return self._claims.suspects(self._lease.record.model)
        except BatchmillError as error:
            log.warning("no look for suspects", extra={"action": "suspects_failed", "reason": str(error)})
            return None

    def _run_empty(self) -> bool:
        """Wait until all that was claimed is decoded and written; False: told to stop."""
        while len(self._ledger) and not self._stopping.is_set():
            if self._claimed:
                self._stage(self._staging.wait_for_room(IDLE_SECONDS))
            else:
                self._stopping.wait(RUN_EMPTY_POLL_SECONDS)
        return not self._stopping.is_set()

    def _take(self, room: int) -> list[Portion]:
        """Wait for a message, then take what waits already, up to the room there is; the rest of a long message stays
        in the inbox, where another worker's message for the same ids may overtake it."""
        portions: list[Portion] = []
        while room > 0:
            try:
                place = self._inbox.get(block=not portions, timeout=IDLE_SECONDS)
            except queue.Empty:
                break
            delivery = place[2]
            ids = self._ledger.take(delivery, room)
            portions.append(Portion(delivery, ids))
            room -= len(ids)
            if delivery.ids:
                self._inbox.put(place)
        return portions

    def _claim_until_done(self, portions: list[Portion], level: Level) -> None:
        """Try until the database answers; a claim that failed has claimed nothing."""
        while not self._stopping.is_set():
            worker_id = self._lease.worker_id
            try:
                claimed = self._claim(worker_id, portions, level)
            except BatchmillError as error:
                log.warning("claim failed, trying again", extra={"action": "claim_failed", "reason": str(error)})
                self._stopping.wait(RETRY_SECONDS)
                continue
            self._note(portions, {job.id: Row(worker_id, job) for job in claimed})
            return

    def _claim(self, worker_id: UUID, portions: list[Portion], level: Level) -> list[ClaimedJob]:
        ids = [job_id for portion in portions if portion.delivery.job is None for job_id in portion.ids]
        inline = {portion.delivery.job.id: portion.delivery.job for portion in portions if portion.delivery.job}
        claimed = self._claims.claim(worker_id, ids, level=level) if ids else []
        if inline:
            claimed += self._claims.claim_inline(worker_id, list(inline.values()))
        return claimed

    def _note(self, portions: list[Portion], claimed: dict[UUID, Row]) -> None:
        """Enter the rows in the ledger, tell Celery, stage what there is room for.

        How many requests a job is shows only once it is claimed: after jobs of many fewer are claimed next.
        """
        done: list[Delivery] = []
        rows: list[Row] = []
        for delivery, ids in portions:
            mine = [claimed.pop(job_id) for job_id in ids if job_id in claimed]  # an id may stand in two messages
            rows += mine
            done += self._ledger.hold(delivery, ids, mine)
        with self._lock:
            self._num_waiting -= sum(len(ids) for _, ids in portions)
        self._on_accepted([delivery for delivery, _ in portions])
        self._on_finished(done)
        self._claimed.extend(rows)
        if rows:
            self._requests_per_job = sum(num_prompts(row.job) for row in rows) // len(rows)
            self._stage(sum(len(ids) for _, ids in portions))

    def _stage(self, room: int) -> None:
        """Prepare claimed rows until there are `room` requests; all of a job at once, however many they are."""
        prepared: list[Prepared] = []
        while self._claimed and len(prepared) < room:
            row = self._claimed.popleft()
            if self._ledger.is_open(row):  # else it was cancelled, or lost with the lease, while it waited here
                prepared += self._prepare(row)
        self._staging.put(prepared)

    def _prepare(self, row: Row) -> list[Prepared]:
        """Tokenise and check. This is the per-row boundary: whatever goes wrong fails this row and no other."""
        request_id = ""
        prepared: list[Prepared] = []
        try:
            for request in engine_requests(row.job):
                request_id = request.id
                prepared.append((row, request_id, self._engine.prepare(request)))
        except RowError as error:
            outcome = failed(row.job, error.code, error.message, request_id=request_id)
        except RequestError as error:
            outcome = failed(row.job, error.error_code, error.message)
        except Exception:
            log.exception("preparing a row failed", extra={"action": "prepare_failed", "job_id": str(row.job.id)})
            outcome = failed(row.job, "internal_row_error", "the prompt could not be prepared", request_id=request_id)
        else:
            return prepared
        if self._ledger.end(row):  # else it was cancelled meanwhile
            self._finish(FinishedRow(row, outcome))
        return []
