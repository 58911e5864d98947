"""A job as it happens: its states from the table, its text from the feed, each character once and in order.

Neither is waited for alone: while Redis is away the table goes on telling, a little later. Knows nothing of HTTP.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

from fastapi.concurrency import run_in_threadpool

from api.rendering.progress import Item, Progress
from api.streams.feed import BEGINNING, Entries, Feed
from api.waiting import Watch
from models.errors import BatchmillError, NotFound
from models.records import JobRecord
from models.status import FINAL
from models.store import Store

log = logging.getLogger(__name__)

RECHECK_SECONDS = 15.0  # a job that was deleted changes its status no more


class Following:
    """Follows one job to its end. Close it."""

    def __init__(
        self, store: Store, watch: Watch, feed: Feed, job: JobRecord, *, known_chars: Mapping[int, int] | None = None
    ) -> None:
        body = job.body
        self._store = store
        self._watch = watch
        self._feed = feed
        self.job = job  # as it was last read
        self._progress = Progress(known_chars, with_ids=bool(body.get("return_token_ids")))
        self._has_feed = bool(body.get("stream"))
        self._place = BEGINNING
        self._ready: deque[Item] = deque()
        self._watching: asyncio.Task[bool] | None = None
        self._reading: asyncio.Task[Entries] | None = None
        self._arrive(job)

    async def next(self) -> Item:
        """The next state of the job or the next piece of its text; a final state is the last item, after all text.

        Cancelling it loses nothing. Raises NotFound when the job was deleted meanwhile.
        """
        while not self._ready:
            await self._more()
        return self._ready.popleft()

    def close(self) -> None:
        """Stop following."""
        for task in (self._watching, self._reading):
            if task is not None:
                task.cancel()

    async def _more(self) -> None:
        """Wait for the table or the feed, whichever has something."""
        if self._watching is None:
            is_news = self.job.status.__ne__
            self._watching = asyncio.create_task(self._watch.wait(self.job.id, is_news, seconds=RECHECK_SECONDS))
        if self._reading is None and self._has_feed:
            self._reading = asyncio.create_task(self._feed.read(self.job.id, after=self._place))
        tasks: list[asyncio.Task[Any]] = [task for task in (self._watching, self._reading) if task is not None]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if self._reading in done:
            self._hear(self._reading.result())
        if self._watching in done:
            self._watching = None
            await self._look()

    def _hear(self, entries: Entries) -> None:
        self._reading, self._place = None, entries.last
        pieces = map(self._progress.take, entries.deltas)
        self._ready.extend(piece for piece in pieces if piece is not None)

    async def _look(self) -> None:
        """Read the job again. A database that is away is asked again at the pace of the watch."""
        try:
            job = await run_in_threadpool(self._store.job, self.job.id)
        except BatchmillError as error:
            log.warning("cannot read a job that is followed: %s", error, extra={"action": "follow_failed"})
            return
        if job is None:
            raise NotFound
        if job.status is not self.job.status:
            self._arrive(job)

    def _arrive(self, job: JobRecord) -> None:
        """The job is in a new state. With the final one comes the text that the feed did not bring."""
        self.job = job
        pieces = map(self._progress.rest, job.completions)
        self._ready.extend(piece for piece in pieces if piece is not None)
        self._ready.append(job)
        if job.status in FINAL:
            self._has_feed = False
