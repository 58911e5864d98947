"""The engine's thread: dropping rows, and dying loudly."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.unit.worker.test_staging import row
from worker.decoder import Decoder
from worker.deliveries import Delivery, FinishedRow, Ledger
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


@contextmanager
def decoding(engine: SlowEngine, crashes: list[str]) -> Iterator[Decoder]:
    """A decoder with one row staged."""
    finished: list[FinishedRow] = []
    staging, ledger, held = Staging(32), Ledger(), row(1)
    ledger.hold(Delivery([]), [held.job.id], [held])
    staging.put([(held, str(held.job.id), Request(str(held.job.id), "a"))])
    decoder = Decoder(
        engine,
        staging,
        ledger,
        refill_wait_seconds=0,
        finish=finished.append,
        publish=lambda entries: None,
        on_room=lambda: None,
        on_crash=lambda: crashes.append("crash"),
    )
    decoder.start()
    yield decoder
    engine.go_on.set()
    decoder.stop()
    decoder.join(10)


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


@pytest.mark.parametrize(("refill_wait_seconds", "together"), [(60.0, 2), (0.0, 1)])
def test_freed_slots_are_filled_a_sixteenth_of_the_rows_at_a_time(refill_wait_seconds: float, together: int) -> None:
    engine, finished = OneByOne(), threading.Semaphore(0)
    staging, ledger = Staging(32), Ledger()
    rows = [row(number) for number in range(64)]
    ledger.hold(Delivery([]), [held.job.id for held in rows], rows)
    staging.put([(held, str(held.job.id), Request(str(held.job.id), "a")) for held in rows])
    decoder = Decoder(
        engine,
        staging,
        ledger,
        refill_wait_seconds=refill_wait_seconds,
        finish=lambda done: finished.release(),
        publish=lambda entries: None,
        on_room=lambda: None,
        on_crash=lambda: None,
    )
    decoder.start()
    for _ in rows:
        assert finished.acquire(timeout=10)
    decoder.stop()
    decoder.join(10)
    # What is left when all that waits finds a slot goes in at once: nobody is worth waiting for then.
    refills = [number for number in engine.added[1:] if number]
    assert engine.added[0] == 32
    assert set(refills) == {together}
    assert sum(refills) == 32
