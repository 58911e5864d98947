"""Group commit: submissions that come in together share one transaction, and each is answered once it is committed.

One transaction at a time: while it runs the next group gathers, so nobody waits for company, and a service under load
commits hundreds of jobs for the price of one.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from models.errors import BatchmillError, DatabaseBusy, DatabaseUnavailable, Overloaded
from models.store import Store
from models.submitting import Submission, Submitted

MAX_GROUP = 1000  # jobs a transaction
MAX_GROUP_BYTES = 8 << 20  # of bodies: how long the statement, and how big its text
MAX_WAITING_BYTES = 256 << 20  # beyond it the database is too slow for what comes in
SLOW_SECONDS = 1.0  # of a failure, after which those who wait are not made to wait for their own


AWAY = (DatabaseUnavailable, DatabaseBusy, Overloaded)


@dataclass(eq=False, slots=True)
class _Item:
    submission: Submission
    num_bytes: int
    done: asyncio.Future[Submitted] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Committer:
    """Takes submissions from the event loop's tasks and stores them in groups, from a thread of its own."""

    def __init__(self, store: Store, *, on_commit: Callable[[], None]) -> None:
        self._store = store
        self._on_commit = on_commit
        self._waiting: deque[_Item] = deque()
        self._waiting_bytes = 0
        self._thread = ThreadPoolExecutor(1, "committer")
        self._task: asyncio.Task[None] | None = None

    async def commit(self, submission: Submission, num_bytes: int) -> Submitted:
        """Store a job whose body has about so many bytes; committed when this returns.

        Raises IdempotencyKeyReused, which concerns this submission alone, what the database raises, which all of its
        group get, and Overloaded.
        """
        if self._waiting_bytes + num_bytes > MAX_WAITING_BYTES:
            raise Overloaded
        item = _Item(submission, num_bytes)
        self._waiting.append(item)
        self._waiting_bytes += num_bytes
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._commit_all())
        return await item.done

    async def _commit_all(self) -> None:
        """Group after group until nothing waits."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            group = self._take_group()
            submissions, began = [item.submission for item in group], loop.time()
            results = await loop.run_in_executor(self._thread, self._commit, submissions)
            _tell(group, results)
            self._on_commit()
            if loop.time() - began > SLOW_SECONDS and isinstance(results[0], AWAY):
                self._refuse_waiting(results[0])

    def _commit(self, group: Sequence[Submission]) -> Sequence[Submitted | Exception]:
        """Store a group. What is nobody's fault but a bug's is looked for one by one, so that it fails alone."""
        try:
            return self._store.submit_group(group)
        except BatchmillError as error:
            return [error] * len(group)
        except Exception as error:
            if len(group) == 1:
                return [error]
            return [result for submission in group for result in self._commit([submission])]

    def _refuse_waiting(self, error: Exception) -> None:
        """It took long to find out that the database is away. Who waited meanwhile would wait as long again."""
        group, self._waiting, self._waiting_bytes = [*self._waiting], deque(), 0
        _tell(group, [error] * len(group))

    def _take_group(self) -> list[_Item]:
        """The next items within the limits; at least one."""
        group: list[_Item] = []
        num_bytes = 0
        while self._waiting and len(group) < MAX_GROUP:
            num_bytes += self._waiting[0].num_bytes
            if group and num_bytes > MAX_GROUP_BYTES:
                break
            group.append(self._waiting.popleft())
        self._waiting_bytes -= sum(item.num_bytes for item in group)
        return group


def _tell(group: Sequence[_Item], results: Sequence[Submitted | Exception]) -> None:
    """Give each its result, unless nobody waits for it any more."""
    for item, result in zip(group, results, strict=True):
        if item.done.done():
            continue
        if isinstance(result, Exception):
            item.done.set_exception(result)
        else:
            item.done.set_result(result)
