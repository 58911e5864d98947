"""The engine's thread: dropping rows, and dying loudly."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.unit.worker.test_staging import row
from worker.decoder import Decoder
from worker.deliveries import Delivery, FinishedRow, Ledger
from worker.engine.types import Output, Request
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
    staging, ledger, held = Staging(), Ledger(), row(1)
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
