"""One answer for many who ask: what is costly to read is read once, and kept for a little while."""

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from fastapi.concurrency import run_in_threadpool

MIN_SECONDS = 1.0
MAX_LOAD = 0.1  # the share of time spent reading, however often somebody asks

_Value = TypeVar("_Value")


class Snapshot(Generic[_Value]):
    """The latest reading of something. Belongs to the event loop; it is read on a thread, by one at a time."""

    def __init__(self, read: Callable[[], _Value], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._reading: asyncio.Task[_Value] | None = None
        self._fresh_until = -float("inf")

    async def get(self) -> _Value:
        """The reading, MIN_SECONDS old at most, or older if reading takes long. Raises what reading raises."""
        if self._reading is None or (self._reading.done() and self._fresh_until <= self._clock()):
            self._reading = asyncio.create_task(self._read_once())
        return await asyncio.shield(self._reading)  # one who hangs up does not end it for the others

    async def _read_once(self) -> _Value:
        started = self._clock()
        try:
            return await run_in_threadpool(self._read)
        finally:
            ended = self._clock()
            self._fresh_until = ended + max(MIN_SECONDS, (ended - started) * (1 / MAX_LOAD - 1))
