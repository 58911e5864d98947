"""Every way of being told to stop is the same: what was started is stopped, in order, on the way out."""

import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_MAX_NOTED = 4096  # signals given at a time


@contextmanager
def interrupts() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, as ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def noted(*numbers: signal.Signals) -> Iterator[Callable[[float | None], bytes]]:
    """Note signals instead of acting on them. The block gets a function that waits for the next ones, up to so many
    seconds, and gives their numbers; none is lost that comes before it is called. For the main thread.
    """
    reader, writer = socket.socketpair()

    def wait(seconds: float | None) -> bytes:
        select.select([reader], [], [], seconds)
        with suppress(BlockingIOError):
            return reader.recv(_MAX_NOTED)
        return b""

    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        before = {number: signal.signal(number, _note) for number in numbers}
        former = signal.set_wakeup_fd(writer.fileno())
        try:
            yield wait
        finally:
            signal.set_wakeup_fd(former)
            for number, handler in before.items():
                signal.signal(number, handler)


def _note(number: int, frame: FrameType | None) -> None:
    """Python writes the number to the pipe before it comes here."""
