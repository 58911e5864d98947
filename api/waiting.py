"""Waiting for jobs and batches to change: one query a tick for all who wait, and no thread held meanwhile."""

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from uuid import UUID

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from models.batch_store import BatchStore
from models.errors import BatchmillError
from models.records import BatchMark
from models.status import Status
from models.store import Store

log = logging.getLogger(__name__)

MAX_WAIT_SECONDS = 60.0  # of a long poll; proxies cut what takes longer
MIN_TICK_SECONDS = 0.02
MAX_LOAD = 0.2  # the share of time spent asking: the more rows are watched, the rarer the question
READ_TIMEOUT_HEADER = "x-stainless-read-timeout"  # seconds; the official client says when it will hang up
READ_MARGIN_SECONDS = 5.0

_PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?(?=$|[,;\s])", re.IGNORECASE)  # RFC 7240

_Result = TypeVar("_Result")
_State = TypeVar("_State")


@dataclass(eq=False)
class _Waiter(Generic[_State]):
    reached: Mapping[UUID, Callable[[_State], bool]]
    done: asyncio.Event = field(default_factory=asyncio.Event)


class StateWatch(Generic[_State]):
    """Looks into a table while somebody waits, and only then. `ask` reads the states of many ids in one query."""

    def __init__(self, ask: Callable[[Sequence[UUID]], Mapping[UUID, _State]]) -> None:
        self._ask = ask
        self._waiters: set[_Waiter[_State]] = set()
        self._task: asyncio.Task[None] | None = None

    async def wait(self, id: UUID, reached: Callable[[_State], bool], *, seconds: float) -> bool:
        """Wait until `reached` holds of the state behind this id, or it names nothing any more; False when the time is
        over first."""
        return await self.wait_for_any({id: reached}, seconds=seconds)

    async def wait_for_any(self, reached: Mapping[UUID, Callable[[_State], bool]], *, seconds: float) -> bool:
        """As `wait`, for one of many ids."""
        waiter = _Waiter(reached)
        self._waiters.add(waiter)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look())
        try:
            await asyncio.wait_for(waiter.done.wait(), seconds)
        except TimeoutError:
            return False
        finally:
            self._waiters.discard(waiter)
        return True

    async def _look(self) -> None:
        """Ask, tell, sleep, until nobody waits."""
        while self._waiters:
            started = time.monotonic()
            try:
                await self._ask_once()
            except BatchmillError as error:  # who waits goes on waiting: the database may be back in time
                log.warning("cannot look for results: %s", error, extra={"action": "watch_failed"})
            took_seconds = time.monotonic() - started
            await asyncio.sleep(max(MIN_TICK_SECONDS, took_seconds * (1 / MAX_LOAD - 1)))

    async def _ask_once(self) -> None:
        waiters = list(self._waiters)
        states = await run_in_threadpool(self._ask, list({id for waiter in waiters for id in waiter.reached}))
        for waiter in waiters:
            # An id that names nothing any more was deleted: no state of it will ever come.
            if any(id not in states or reached(states[id]) for id, reached in waiter.reached.items()):
                waiter.done.set()


class Watch(StateWatch[Status]):
    """Watches jobs."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.statuses)


class BatchWatch(StateWatch[BatchMark]):
    """Watches batches."""

    def __init__(self, batches: BatchStore) -> None:
        super().__init__(batches.marks)


class Holders:
    """Which jobs connections wait for here. A job that its client repeated the request of has two: that the first of
    them breaks must not cancel it."""

    def __init__(self) -> None:
        self._numbers: Counter[UUID] = Counter()

    @contextmanager
    def holding(self, job_id: UUID) -> Iterator[None]:
        """Count as one who waits for the job."""
        self._numbers[job_id] += 1
        try:
            yield
        finally:
            self._numbers[job_id] -= 1
            if not self._numbers[job_id]:
                del self._numbers[job_id]

    def is_alone(self, job_id: UUID) -> bool:
        """Whether at most one waits for the job."""
        return self._numbers.get(job_id, 0) <= 1


def wanted_seconds(headers: Mapping[str, str], wait: float | None) -> float:
    """What a client asked for by `wait`, or without it by the header `Prefer: wait=n`; 0: an answer at once."""
    if wait is not None:
        return wait
    preferred = _PREFER_WAIT.search(headers.get("prefer", ""))
    return float(preferred[1]) if preferred else 0.0


def patience_seconds(headers: Mapping[str, str], *, wanted: float, most: float = MAX_WAIT_SECONDS) -> float:
    """How long to wait: as asked, within our limit, and so that the answer comes before the client hangs up."""
    try:
        client = float(headers.get(READ_TIMEOUT_HEADER, "inf"))
    except ValueError:
        client = float("inf")
    return max(0.0, min(wanted, most, client - READ_MARGIN_SECONDS))


async def unless_gone(request: Request, work: Awaitable[_Result], *, on_gone: Callable[[], object]) -> _Result | None:
    """Await `work`; when the client hangs up first, drop it, call `on_gone` on a thread and return None.

    The request's body must have been read: what still comes in is the news that the client went away.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        await run_in_threadpool(on_gone)
        return None
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
