"""The rules of the state machine: hypothesis chooses among them, and the plain model says what each must have done."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from sqlalchemy import update

from models.records import ClaimedJob
from models.suspects import Level
from models.tables import batches, jobs
from tests.integration.store.machine.driver import PAST, Driver
from tests.integration.store.machine.ops import Op
from tests.integration.store.making import REFUSAL, lines, new_job, new_jobs

MAX_JOBS, MAX_WORKERS, MAX_BATCHES = 14, 6, 3
SLOTS = ("host/0", "host/1")
MEETINGS = ("commit", "cancel", "reap", "confirm_crash", "claim", "expire_queued")  # on one row
NUMBERS = st.integers(0, 63)  # which of several; hypothesis makes them small where it can
CHANGES = ("end_intake", "cancel_batch", "begin_cancel_batch", "fail_batch", "delete_batch")  # of batches
SWEEPS = ("reap", "expire_queued", "resume_cancelling")  # what keepers do
SETS = st.integers(1, 255)  # which ones of the last eight, as bits

_Item = TypeVar("_Item")


def one_of(items: Sequence[_Item], number: int) -> _Item:
    """Counted from the newest."""
    return items[-1 - number % len(items)]


def some_of(items: Sequence[_Item], bits: int) -> list[_Item]:
    """Those of the newest eight whose bit is set."""
    return [item for index, item in enumerate(reversed(items)) if bits >> index & 1][:8]


class StoreMachine(Driver):
    """One example: an empty database, then steps. Subclasses say on which database."""

    # -- jobs and batches come and go ---------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        """Something to work on, and someone to do it."""
        self.do(self.ops.submit(new_jobs(2)))
        self.create_batch(2)
        for slot in SLOTS:
            self.do(self.ops.register(slot))
        self.do(self.ops.claim(self.known[-1], self.ids[1:]))

    @precondition(lambda self: len(self.plain.rows) < MAX_JOBS)
    @rule(number=st.integers(1, 3))
    def submit(self, number: int) -> None:
        self.do(self.ops.submit(new_jobs(number)))

    @precondition(lambda self: len(self.plain.rows) < MAX_JOBS)
    @rule(key=st.sampled_from("kl"), body=st.sampled_from([b"1", b"2"]))
    def submit_once(self, key: str, body: bytes) -> None:
        self.do(self.ops.submit_once(new_job(), key, body))

    def create_batch(self, number: int) -> UUID:
        self.do(self.ops.create_batch())
        batch_id = next(reversed(self.plain.batches))
        new = [replace(job, batch_id=batch_id) for job in lines(number)]
        self.lines.append((batch_id, [*new[:-1], replace(new[-1], error=REFUSAL)] if number > 2 else new))
        self.do(self.ops.append(*self.lines[-1]))
        return batch_id

    @precondition(lambda self: len(self.plain.rows) < MAX_JOBS and len(self.plain.batches) < MAX_BATCHES)
    @rule(number=st.integers(1, 3), is_whole=st.booleans())
    def submit_batch(self, number: int, is_whole: bool) -> None:
        batch_id = self.create_batch(number)
        if is_whole:
            self.do(self.ops.end_intake(batch_id))

    @precondition(lambda self: self.lines)
    @rule(number=NUMBERS)
    def append_again(self, number: int) -> None:
        batch_id, new = one_of(self.lines, number)
        if batch_id in self.plain.batches:
            self.do(self.ops.append(batch_id, new))

    @precondition(lambda self: self.plain.batches)
    @rule(number=NUMBERS, what=st.sampled_from(CHANGES))
    def change_batch(self, number: int, what: str) -> None:
        self.do(getattr(self.ops, what)(one_of(list(self.plain.batches), number)))

    @precondition(lambda self: self.plain.rows)
    @rule(number=NUMBERS, what=st.sampled_from(["cancel", "cancel", "delete"]))
    def change_job(self, number: int, what: str) -> None:
        self.do(getattr(self.ops, what)(one_of(self.ids, number)))

    # -- workers ------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.plain.workers) < MAX_WORKERS)
    @rule(slot=st.sampled_from(SLOTS))
    def register(self, slot: str) -> None:
        self.do(self.ops.register(slot))

    @precondition(lambda self: self.plain.workers)
    @rule(number=NUMBERS, what=st.sampled_from(["heartbeat", "deregister", "confirm_crash", "claim_suspects"]))
    def be_a_worker(self, number: int, what: str) -> None:
        self.do(getattr(self.ops, what)(one_of(self.known, number)))

    @precondition(lambda self: self.plain.workers and self.waiting)
    @rule(number=NUMBERS, bits=SETS, anything=st.booleans(), level=st.none() | st.sampled_from(Level))
    def claim(self, number: int, bits: int, anything: bool, level: Level | None) -> None:
        ids = some_of(self.ids if anything else self.waiting, bits)
        self.do(self.ops.claim(one_of(self.known, number), ids, level))

    @precondition(lambda self: self.plain.workers and len(self.plain.rows) < MAX_JOBS)
    @rule(number=NUMBERS, is_repeated=st.booleans())
    def claim_inline(self, number: int, is_repeated: bool) -> None:
        if not (is_repeated and self.inline):
            self.inline.append(new_job())
        job = self.inline[-1]
        if (
            job.id in self.plain.rows or not is_repeated
        ):  # a deleted one would come back, as the message is all there is
            self.do(self.ops.claim_inline(one_of(self.known, number), [job]))

    @precondition(lambda self: self.running)
    @rule(number=NUMBERS, bits=SETS, fails=st.booleans())
    def commit(self, number: int, bits: int, fails: bool) -> None:
        worker, _ = one_of(self.running, number)
        self.commit_of(worker, some_of([job for owner, job in self.running if owner == worker], bits), fails=fails)

    @precondition(lambda self: self.committed)
    @rule(number=NUMBERS)
    def commit_again(self, number: int) -> None:
        self.do(self.ops.commit(*one_of(self.committed, number)))

    @precondition(lambda self: self.ops.handed_out)
    @rule(number=NUMBERS, fails=st.booleans())
    def commit_whatever_it_was(self, number: int, fails: bool) -> None:
        worker, job = one_of(self.ops.handed_out, number)
        self.commit_of(worker, [job], fails=fails)

    @precondition(lambda self: self.running)
    @rule(number=NUMBERS, bits=st.none() | SETS)
    def release(self, number: int, bits: int | None) -> None:
        worker, _ = one_of(self.running, number)
        self.do(self.ops.release(worker, None if bits is None else some_of(self.ids, bits)))

    # -- time passes --------------------------------------------------------------------------------------------

    @precondition(lambda self: self.alive)
    @rule(number=NUMBERS, then=st.sampled_from(["", "heartbeat", "claim"]))
    def lose_lease(self, number: int, then: str) -> None:
        """And perhaps go on, not knowing."""
        worker = one_of(self.alive, number)
        self.end_lease(worker)
        if then == "claim":
            self.do(self.ops.claim(worker, self.waiting))
        elif then == "heartbeat":
            self.do(self.ops.heartbeat(worker))

    @precondition(lambda self: self.plain.rows)
    @rule(number=NUMBERS, is_told=st.booleans())
    def pass_deadline(self, number: int, is_told: bool) -> None:
        """And perhaps be told of the job after that, by an old message."""
        id = one_of(self.ids, number)
        with self.database.transaction() as connection:
            connection.execute(update(jobs).where(jobs.c.id == id).values(deadline=PAST))
        self.plain.rows[id].is_late = True
        if is_told and self.alive:
            self.do(self.ops.claim(self.alive[-1], [id]))

    @precondition(lambda self: self.plain.batches)
    @rule(number=NUMBERS)
    def pass_window(self, number: int) -> None:
        id = one_of(list(self.plain.batches), number)
        with self.database.transaction() as connection:
            connection.execute(update(batches).where(batches.c.id == id).values(expires_at=PAST))
            connection.execute(update(jobs).where(jobs.c.batch_id == id).values(deadline=PAST))
        self.plain.batches[id].is_late = True
        for row in self.plain.of_batch(id).values():
            row.is_late = True

    @rule(what=st.sampled_from(SWEEPS))
    def sweep(self, what: str) -> None:
        self.do(getattr(self.ops, what)())

    # -- what has to happen in a row, which chance seldom finds --------------------------------------------------

    @precondition(lambda self: self.running and self.alive)
    @rule(number=NUMBERS, fails=st.booleans(), is_crash=st.booleans(), who_first=st.booleans())
    def take_over_while_the_owner_writes(self, number: int, fails: bool, is_crash: bool, who_first: bool) -> None:
        """Its lease runs out, or it is said to have crashed; another one claims; then the old owner writes."""
        owner, job = one_of(self.running, number)
        if owner not in self.plain.workers:
            return
        if is_crash:
            self.do(self.ops.register(self.plain.slots[owner]))
            self.do(self.ops.confirm_crash(self.known[-1]))
        else:
            self.end_lease(owner)
            self.do(self.ops.reap())
        if self.alive:
            self.do(self.ops.claim(self.alive[-1], [job.id]))
        again = [(worker, other) for worker, other in self.running if other.id == job.id]
        for worker, attempt in [(owner, job), *again] if who_first else [*again, (owner, job)]:
            self.commit_of(worker, [attempt], fails=fails)

    @precondition(lambda self: self.running)
    @rule(number=NUMBERS, fails=st.booleans())
    def give_back_and_take_again(self, number: int, fails: bool) -> None:
        """The same worker holds it again when the outcome of its first attempt comes."""
        owner, job = one_of(self.running, number)
        self.do(self.ops.release(owner, [job.id]))
        self.do(self.ops.claim(owner, [job.id]))
        self.commit_of(owner, [job], fails=fails)

    @precondition(lambda self: self.running)
    @rule(number=NUMBERS, fails=st.booleans())
    def cancel_while_running(self, number: int, fails: bool) -> None:
        """The owner has not looked before it commits."""
        owner, job = one_of(self.running, number)
        self.do(self.ops.cancel(job.id))
        self.commit_of(owner, [job], fails=fails)

    # -- at the same time ----------------------------------------------------------------------------------------

    @precondition(lambda self: self.alive and self.waiting)
    @rule(numbers=st.tuples(NUMBERS, NUMBERS), bits=SETS, other_bits=SETS)
    def claim_together(self, numbers: tuple[int, int], bits: int, other_bits: int) -> None:
        """Two claims share some jobs."""
        first, second = (one_of(self.alive, number) for number in numbers)
        ids, others = some_of(self.waiting, bits), some_of(self.waiting, bits | other_bits)
        self.do_both(self.ops.claim(first, ids), self.ops.claim(second, others))

    @precondition(lambda self: self.running)
    @rule(number=NUMBERS, names=st.permutations(MEETINGS))
    def meet(self, number: int, names: list[str]) -> None:
        """Two things happen to one row at once, whose owner's lease ran out."""
        owner, job = one_of(self.running, number)
        if owner in self.plain.workers:
            self.end_lease(owner)
        self.do_both(*(self._happen(name, owner, job) for name in names[:2]))

    def _happen(self, name: str, owner: UUID, job: ClaimedJob) -> Op:
        if name == "commit":
            return self.ops.commit(owner, self.outcomes([job], fails=False))
        if name == "cancel":
            return self.ops.cancel(job.id)
        if name == "confirm_crash" and self.alive:
            return self.ops.confirm_crash(self.alive[-1])
        if name == "claim" and self.alive:
            return self.ops.claim(self.alive[-1], self.ids)
        return self.ops.expire_queued() if name == "expire_queued" else self.ops.reap()
