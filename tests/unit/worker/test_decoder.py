"""The engine's thread: which rows begin, dropping rows, and dying loudly."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest

from tests.unit.worker.test_staging import row
from worker.decoder import Decoder
from worker.deliveries import Delivery, Ledger, Row
from worker.engine.types import Completion, Output, Request
from worker.noop_engine import NoopEngine
from worker.staging import Staging


class SlowEngine(NoopEngine):
    """Its one step takes until it is told to end; it never finishes a row."""

    def __init__(self) -> None:
        super().__init__(rows=4)
        self.stepping, self.go_on = threading.Event(), threading.Event()
        self.cancelled: list[str] = []

    def step(self) -> list[Output]:
        self.stepping.set()
        self.go_on.wait(10)
        return []

    def cancel(self, request_id: str) -> bool:
        self.cancelled.append(request_id)
        return super().cancel(request_id)


class BrokenEngine(SlowEngine):
    """Fails as no engine should."""

    def step(self) -> list[Output]:
        raise RuntimeError("device lost")


def stage(staging: Staging, ledger: Ledger, *rows: Row) -> None:
    ledger.hold(Delivery([]), [held.job.id for held in rows], list(rows))
    staging.put([(held, str(held.job.id), Request(str(held.job.id), "a")) for held in rows])


@contextmanager
def running(
    engine: NoopEngine,
    staging: Staging,
    ledger: Ledger,
    *,
    on_finish: Callable[[], None] = lambda: None,
    on_crash: Callable[[], None] = lambda: None,
    refill_wait_seconds: float = 0.0,
) -> Iterator[Decoder]:
    """A decoder at work."""
    decoder = Decoder(
        engine,
        staging,
        ledger,
        refill_wait_seconds=refill_wait_seconds,
        finish=lambda done: on_finish(),
        publish=lambda entries: None,
        on_room=lambda: None,
        on_crash=on_crash,
    )
    decoder.start()
    try:
        yield decoder
    finally:
        decoder.stop()
        decoder.join(10)


@contextmanager
def decoding(engine: SlowEngine, crashes: list[str]) -> Iterator[Decoder]:
    """A decoder with one row staged."""
    staging, ledger = Staging(32), Ledger()
    stage(staging, ledger, row(1))
    with running(engine, staging, ledger, on_crash=lambda: crashes.append("crash")) as decoder:
        yield decoder
        engine.go_on.set()


def test_drop_returns_only_when_the_rows_are_out() -> None:
    engine = SlowEngine()
    with decoding(engine, []) as decoder:
        engine.stepping.wait(10)
        dropping = threading.Thread(target=decoder.drop, args=({row(1).job.id},))
        dropping.start()
        time.sleep(0.05)
        assert dropping.is_alive()  # the step is still running with that row
        engine.go_on.set()
        dropping.join(10)
        assert not dropping.is_alive()
        assert engine.cancelled == [str(row(1).job.id)]


def test_engine_that_fails_is_reported_and_drop_does_not_hang() -> None:
    crashes: list[str] = []
    with decoding(BrokenEngine(), crashes) as decoder:
        decoder.join(10)
        assert crashes == ["crash"]
        decoder.drop({row(1).job.id})


class OneByOne(NoopEngine):
    """Finishes one row a step, and notes how many were added together."""

    def __init__(self) -> None:
        super().__init__(rows=32)
        self.added = [0]

    def add(self, sequence: Request) -> None:
        super().add(sequence)
        self.added[-1] += 1

    def step(self) -> list[Output]:
        request = self._waiting.popleft()
        self.added.append(0)
        return [Output(request.id, [0], (Completion(text="", finish_reason="length"),))]


class Choosy(NoopEngine):
    """Wants two more a step, and then waits to be told to go on."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows=rows)
        self.begun: list[list[int]] = [[]]
        self.steps, self.go_on = threading.Semaphore(0), threading.Semaphore(0)

    @property
    def num_wanted(self) -> int:
        return min(2 - len(self.begun[-1]), self.num_free)

    def add(self, sequence: Request) -> None:
        super().add(sequence)
        self.begun[-1].append(UUID(sequence.id).int)

    def step(self) -> list[Output]:
        self.steps.release()
        self.go_on.acquire(timeout=10)
        self.begun.append([])
        return []  # every row stays live

    def stop_holding(self) -> None:
        self.go_on.release(1000)


def test_a_row_may_go_before_others_until_they_begin() -> None:
    engine, staging, ledger = Choosy(8), Staging(8), Ledger()
    stage(staging, ledger, *map(row, range(6)))
    with running(engine, staging, ledger):
        assert engine.steps.acquire(timeout=10)
        # Six slots are free, two rows begin a step: the rest stays staged, and there is room for as many as before.
        assert (len(staging), staging.room) == (4, 8 + 1 + 6)
        stage(staging, ledger, row(9, priority=9))
        engine.go_on.release()
        assert engine.steps.acquire(timeout=10)
        engine.stop_holding()
    assert engine.begun[:2] == [[0, 1], [9, 2]]


@pytest.mark.parametrize(("num_staged", "first"), [(8, [[7, 6], [5, 4]]), (9, [[0, 1], [2, 3]])])
def test_an_end_of_the_work_in_sight_is_begun_longest_first(num_staged: int, first: list[list[int]]) -> None:
    engine, staging, ledger = Choosy(8), Staging(8), Ledger()
    stage(staging, ledger, *(row(number, max_tokens=number + 1) for number in range(num_staged)))
    with running(engine, staging, ledger):
        for number in range(num_staged, num_staged + 4):  # a full queue stays full, as the feeder keeps it
            assert engine.steps.acquire(timeout=10)
            if num_staged == 9:
                room = range(staging.room - len(staging))
                stage(staging, ledger, *(row(10 * number + more, max_tokens=1) for more in room))
            engine.go_on.release()
        engine.stop_holding()
    assert engine.begun[:2] == first


@pytest.mark.parametrize(("refill_wait_seconds", "together"), [(60.0, 2), (0.0, 1)])
def test_freed_slots_are_filled_a_sixteenth_of_the_rows_at_a_time(refill_wait_seconds: float, together: int) -> None:
    engine, finished = OneByOne(), threading.Semaphore(0)
    staging, ledger = Staging(32), Ledger()
    rows = [row(number) for number in range(64)]
    stage(staging, ledger, *rows)
    with running(engine, staging, ledger, on_finish=finished.release, refill_wait_seconds=refill_wait_seconds):
        for _ in rows:
            assert finished.acquire(timeout=10)
    # What is left when all that waits finds a slot goes in at once: nobody is worth waiting for then.
    refills = [number for number in engine.added[1:] if number]
    assert engine.added[0] == 32
    assert set(refills) == {together}
    assert sum(refills) == 32
