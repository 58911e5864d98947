"""The steps of the state machine: what to do with the store, and what the plain model makes of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from models.batch_store import BatchStore
from models.claims import Claims
from models.database import Database
from models.errors import BatchClosed, BatchNotFinal, IdempotencyKeyReused, JobNotFinal, JobOfBatch
from models.idempotency import by_key
from models.records import ClaimedJob, NewJob, Outcome, Reaped
from models.status import FINAL, FINAL_BATCH, BatchStatus, Status
from models.store import Store
from models.submitting import Submission, Submitted
from models.suspects import COMPANY, Level, Suspects
from tests.integration.store.machine.plain import MAX_ATTEMPTS, Plain
from tests.integration.store.machine.seen import Batch, Seen
from tests.integration.store.making import LONG, MODEL, REFUSAL, new_batch, new_worker

Run = Callable[[], Any]


@dataclass
class Op:
    """`run` does it and returns what the store said; `expect` tells the model, with what the tables hold now, and
    checks the answer. `may_skip`: another transaction held rows meanwhile, so it may have left some out."""

    run: Run
    expect: Callable[[Any, Seen, bool], None]
    is_crash: bool = False
    num_steps: int = 1  # arrows that a row may go along


@dataclass
class Ops:
    """Makes steps. Remembers every row that was ever handed to a worker, so that late writes can be tried."""

    database: Database
    plain: Plain
    handed_out: list[tuple[UUID, ClaimedJob]] = field(default_factory=list)
    bodies: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store, self.batches = Store(self.database), BatchStore(self.database)
        self.claims = Claims(self.database, max_attempts=MAX_ATTEMPTS)

    def submit(self, new: Sequence[NewJob]) -> Op:
        """Store jobs, or store them again."""
        return Op(lambda: self.store.submit(new), lambda *_: self.plain.add(job.id for job in new))

    def submit_once(self, new: NewJob, key: str, body: bytes) -> Op:
        """Store a job under an idempotency key."""

        def run() -> object:
            try:
                return self.store.submit_all([Submission(new, by_key(key, "/v1/completions", body))])
            except IdempotencyKeyReused:
                return IdempotencyKeyReused

        def expect(answer: object, *_: object) -> None:
            first = self.plain.keys.get(key)
            if first is None:
                assert answer == [Submitted(new.id, replayed=False)]
                self.plain.add([new.id])
                self.plain.keys[key], self.bodies[key] = new.id, body
            elif self.bodies[key] == body:
                assert answer == [Submitted(first, replayed=True)]
            else:
                assert answer is IdempotencyKeyReused

        return Op(run, expect)

    def create_batch(self) -> Op:
        """A batch without lines."""

        def expect(batch_id: UUID, *_: object) -> None:
            self.plain.batches[batch_id] = Batch()

        return Op(lambda: new_batch(self.batches, completion_window_seconds=3600), expect)

    def append(self, batch_id: UUID, new: Sequence[NewJob]) -> Op:
        """Store lines of a batch, or store them again."""

        def run() -> object:
            try:
                self.batches.append(batch_id, new, num_lines=len(new), num_bytes=0)
            except BatchClosed:
                return BatchClosed
            return None

        def expect(answer: object, *_: object) -> None:
            batch = self.plain.batches[batch_id]
            is_open = batch.status in (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS) and not batch.is_read
            assert (answer is BatchClosed) != is_open
            for job in new if is_open else ():
                self.plain.add([job.id], batch=batch_id, error=job.error)
                self.plain.rows[job.id].is_late |= batch.is_late

        return Op(run, expect)

    def end_intake(self, batch_id: UUID) -> Op:
        """No more lines."""

        def expect(*_: object) -> None:
            batch = self.plain.batches[batch_id]
            if batch.status in (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS):
                batch.status, batch.is_read = BatchStatus.IN_PROGRESS, True
            self.plain.count()

        return Op(lambda: self.batches.end_intake(batch_id), expect)

    def fail_batch(self, batch_id: UUID) -> Op:
        """The input is bad as a whole."""

        def expect(*_: object) -> None:
            batch = self.plain.batches[batch_id]
            if batch.status in (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS) and not batch.is_read:
                batch.status = BatchStatus.FAILED
                self.plain.cancel(self.plain.of_batch(batch_id))

        return Op(lambda: self.batches.fail(batch_id, [{"code": REFUSAL.code}]), expect)

    def cancel_batch(self, batch_id: UUID) -> Op:
        """Cancel it whole."""

        def expect(*_: object) -> None:
            batch = self.plain.batches[batch_id]
            if batch.status not in FINAL_BATCH:
                batch.status = BatchStatus.CANCELLING
                self.plain.cancel(self.plain.of_batch(batch_id))

        return Op(lambda: self.batches.cancel(batch_id), expect)

    def begin_cancel_batch(self, batch_id: UUID) -> Op:
        """As far as a process gets that is killed in the middle of it."""

        def expect(begun: bool, *_: object) -> None:
            batch = self.plain.batches[batch_id]
            assert begun == (batch.status not in FINAL_BATCH)
            if begun:
                batch.status = BatchStatus.CANCELLING
            self.plain.count()

        return Op(lambda: self.batches.begin_cancel(batch_id), expect)

    def resume_cancelling(self) -> Op:
        """Go on where such a process died."""

        def expect(*_: object) -> None:
            for id, batch in self.plain.batches.items():
                if batch.status in (BatchStatus.CANCELLING, BatchStatus.FAILED):
                    self.plain.cancel(self.plain.of_batch(id))

        return Op(self.claims.resume_cancelling, expect)

    def register(self, slot: str) -> Op:
        """A new process in a slot; whatever was there before says nothing."""

        def expect(worker: UUID, *_: object) -> None:
            self.plain.workers[worker], self.plain.slots[worker] = True, slot

        return Op(lambda: new_worker(self.claims, slot=slot), expect)

    def heartbeat(self, worker: UUID) -> Op:
        """Renew; a lease that was lost stays lost."""

        def expect(state: str | None, *_: object) -> None:
            assert state == ("ready" if self.plain.workers.get(worker) else None)

        return Op(lambda: self.claims.heartbeat(worker, lease_seconds=LONG), expect)

    def deregister(self, worker: UUID) -> Op:
        """Leave properly."""

        def expect(*_: object) -> None:
            self.plain.give_back(self.plain.held(worker))
            self.plain.forget(worker)

        return Op(lambda: self.claims.deregister(worker), expect)

    def claim(self, worker: UUID, ids: Sequence[UUID], level: Level | None = None) -> Op:
        """Take jobs, whatever their status, of this level of suspicion, or of the first one's."""
        if level is None:
            level = self.plain.rows[ids[0]].level if ids else Level.NONE
        return Op(
            lambda: self.claims.claim(worker, ids, level=level),
            lambda *said: self._expect_claimed(worker, ids, level, *said),
        )

    def claim_suspects(self, worker: UUID) -> Op:
        """Take what is to run apart."""

        def expect(found: tuple[Suspects | None, list[ClaimedJob]], seen: Seen, may_skip: bool) -> None:
            suspects, claimed = found
            waiting = [row.level for row in self.plain.rows.values() if row.is_waiting and row.suspicion]
            assert (suspects.level if suspects else Level.NONE) is max(waiting, default=Level.NONE)
            if suspects:
                assert len(suspects.ids) == min(waiting.count(suspects.level), COMPANY[suspects.level])
                self._expect_claimed(worker, suspects.ids, suspects.level, claimed, seen, may_skip)

        def run() -> object:
            suspects = self.claims.suspects(MODEL)
            return suspects, self.claims.claim(worker, suspects.ids, level=suspects.level) if suspects else []

        return Op(run, expect)

    def claim_inline(self, worker: UUID, new: Sequence[NewJob]) -> Op:
        """Take jobs that came in a message, perhaps not for the first time."""

        def expect(claimed: list[ClaimedJob], seen: Seen, may_skip: bool) -> None:
            self.plain.add(job.id for job in new)
            self._expect_claimed(worker, [job.id for job in new], Level.NONE, claimed, seen, may_skip)

        return Op(lambda: self.claims.claim_inline(worker, new), expect, num_steps=2)

    def _expect_claimed(
        self, worker: UUID, ids: Sequence[UUID], level: Level, claimed: list[ClaimedJob], _: Seen, may_skip: bool
    ) -> None:
        ours, may_be = {job.id for job in claimed}, self.plain.claimable(worker, ids, level)
        assert ours <= may_be, "a claim took what it must not"
        assert may_skip or ours == may_be, "a claim left out what it could have had"
        self.plain.claim(worker, ours)
        before = {(job.id, job.attempt) for _, job in self.handed_out}
        assert not before & {(job.id, job.attempt) for job in claimed}, "an attempt was handed out twice"
        self.handed_out += [(worker, job) for job in claimed]

    def commit(self, worker: UUID, outcomes: Sequence[Outcome]) -> Op:
        """Write outcomes, in time, late or again."""

        def expect(answer: object, *_: object) -> None:
            assert answer == self.plain.commit(worker, outcomes)

        return Op(lambda: self.claims.commit(worker, outcomes), expect)

    def release(self, worker: UUID, ids: Sequence[UUID] | None) -> Op:
        """Give back some or all."""

        def expect(num: int, *_: object) -> None:
            given = [id for id in self.plain.held(worker) if ids is None or id in ids]
            assert num == len(given)
            self.plain.give_back(given)

        return Op(lambda: self.claims.release(worker, ids), expect)

    def reap(self) -> Op:
        """Take back from those whose lease ran out."""

        def expect(answer: Reaped, seen: Seen, may_skip: bool) -> None:
            taken = {worker for worker, lasts in self.plain.workers.items() if not lasts}
            if may_skip:
                taken -= seen.workers.keys()
            assert answer == Reaped(len(taken), sum(len(self.plain.held(worker)) for worker in taken))
            self.plain.lose(taken)

        return Op(self.claims.reap, expect)

    def confirm_crash(self, successor: UUID) -> Op:
        """The slot's new process takes back what its predecessors held."""
        slot = self.plain.slots[successor]

        def expect(taken: list[UUID], *_: object) -> None:
            dead = [worker for worker, of in self.plain.slots.items() if of == slot and worker != successor]
            assert sorted(taken) == sorted(id for worker in dead for id in self.plain.held(worker))
            self.plain.crash(dead)

        return Op(lambda: self.claims.confirm_crash(slot, successor=successor), expect, is_crash=True)

    def cancel(self, job_id: UUID) -> Op:
        """Cancel a job, final or not."""

        def expect(answer: Status, *_: object) -> None:
            self.plain.cancel([job_id])
            assert answer is self.plain.rows[job_id].status

        return Op(lambda: self.store.cancel(job_id), expect)

    def expire_queued(self) -> Op:
        """End what waits past its deadline."""

        def expect(num: int, seen: Seen, may_skip: bool) -> None:
            late = [id for id, row in self.plain.rows.items() if row.is_late and row.status is Status.QUEUED]
            taken = [id for id in late if not may_skip or seen.rows[id].status is Status.EXPIRED]
            assert num == len(taken)
            self.plain.expire(taken)

        return Op(lambda: self.claims.expire_queued(1000), expect)

    def delete(self, job_id: UUID) -> Op:
        """Delete a job, where that is allowed."""

        def run() -> object:
            try:
                self.store.delete(job_id)
            except (JobNotFinal, JobOfBatch) as error:
                return type(error)
            return None

        def expect(answer: object, *_: object) -> None:
            row = self.plain.rows[job_id]
            if row.batch is not None:
                assert answer is JobOfBatch
            elif row.status not in FINAL:
                assert answer is JobNotFinal
            else:
                self.plain.delete([job_id])

        return Op(run, expect)

    def delete_batch(self, batch_id: UUID) -> Op:
        """Delete a batch, where that is allowed."""

        def run() -> object:
            try:
                self.batches.delete(batch_id)
            except BatchNotFinal:
                return BatchNotFinal
            return None

        def expect(answer: object, *_: object) -> None:
            rows, batch = self.plain.of_batch(batch_id), self.plain.batches[batch_id]
            is_over = batch.status in FINAL_BATCH and all(row.status in FINAL for row in rows.values())
            assert (answer is BatchNotFinal) != is_over
            if is_over:
                self.plain.delete(rows)
                del self.plain.batches[batch_id]

        return Op(run, expect)
