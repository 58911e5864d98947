"""The streamer thread: pieces of answers, as they are decoded, into the feeds of their jobs in Redis.

A feed is a shortcut: whatever goes wrong here costs a reader only that it sees its text later, so nothing waits for
Redis and nothing is tried again.
"""

import logging
import queue
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from uuid import UUID

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from models.feed import FIELD, TTL_SECONDS, Delta, encode, feed_key
from worker.part import Part

log = logging.getLogger(__name__)

MAX_ROUNDS = 256  # of decode steps not sent yet; some seconds' worth, then the newest are dropped
ROUND_SECONDS = 0.05  # between two rounds: what comes meanwhile travels together
IDLE_SECONDS = 0.2
TIMEOUT_SECONDS = 0.5
LOG_SECONDS = 60.0

Entry = tuple[UUID, Delta]  # a job and a piece of one of its choices


def feed_client(url: str) -> Redis:
    """A connection for feeds: short timeouts, and no second try, which would only delay what comes after."""
    return Redis.from_url(
        url,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )


class Streamer(Part):
    """Sends what it is given in the order it comes, or drops it."""

    def __init__(self, redis: Redis, *, on_crash: Callable[[], None]) -> None:
        super().__init__("streamer", on_crash=on_crash)
        self._redis = redis
        self._rounds: queue.Queue[list[Entry]] = queue.Queue(MAX_ROUNDS)
        self._num_refused = self._num_failed = 0  # the one is the decoder's to count, the other this thread's
        self._logged_at, self._num_logged = -LOG_SECONDS, 0

    @property
    def num_dropped(self) -> int:
        """Pieces that were not sent."""
        return self._num_refused + self._num_failed

    def put(self, entries: list[Entry]) -> None:
        """Take the pieces of one step, or drop them. Never waits."""
        try:
            self._rounds.put_nowait(entries)
        except queue.Full:
            self._num_refused += len(entries)

    def work(self) -> None:
        """Send, until stopped and nothing waits."""
        while not (self._stopping.is_set() and self._rounds.empty()):
            entries = merge(self._take())
            if entries:
                self._send(entries)
                self._stopping.wait(ROUND_SECONDS)

    def _take(self) -> list[Entry]:
        """Wait for a step's pieces, and take all that wait behind them."""
        try:
            entries = [*self._rounds.get(timeout=IDLE_SECONDS)]
        except queue.Empty:
            return []
        for _ in range(self._rounds.qsize()):
            entries += self._rounds.get()
        return entries

    def _send(self, entries: list[Entry]) -> None:
        """Add entries to their feeds in one round trip, or drop them."""
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for job_id, delta in entries:
                    pipeline.xadd(feed_key(job_id), {FIELD: encode(delta)})
                for job_id in {job_id for job_id, _ in entries}:
                    pipeline.expire(feed_key(job_id), TTL_SECONDS)
                pipeline.execute()
        except (RedisError, OSError) as error:
            self._num_failed += len(entries)
            self._log(type(error).__name__)

    def _log(self, reason: str) -> None:
        """One line a minute, however much is dropped."""
        if time.monotonic() - self._logged_at < LOG_SECONDS:
            return
        num = self.num_dropped - self._num_logged
        log.warning("%d pieces of streams dropped: %s", num, reason, extra={"action": "stream_dropped"})
        self._logged_at, self._num_logged = time.monotonic(), self.num_dropped


def merge(entries: Iterable[Entry]) -> list[Entry]:
    """Join pieces that follow each other into one of each choice. An echoed prompt, the one piece without ids where
    ids were asked for, stays alone."""
    merged: dict[tuple[UUID, int], list[Delta]] = {}
    for job_id, delta in entries:
        deltas = merged.setdefault((job_id, delta.choice), [])
        if deltas and _follows(deltas[-1], delta):
            deltas[-1] = _join(deltas[-1], delta)
        else:
            deltas.append(delta)
    return [(job_id, delta) for (job_id, _), deltas in merged.items() for delta in deltas]


def _follows(first: Delta, second: Delta) -> bool:
    """Whether nothing was dropped between two pieces, no token without text either, and both say as much of theirs."""
    num_tokens = len(first.tokens) or len(first.token_ids)
    return (
        first.offset + len(first.text) == second.offset
        and bool(first.token_ids) == bool(second.token_ids)
        and (not num_tokens or first.token_offset + num_tokens == second.token_offset)
    )


def _join(first: Delta, second: Delta) -> Delta:
    return replace(
        first,
        text=first.text + second.text,
        tokens=[*first.tokens, *second.tokens],
        token_ids=[*first.token_ids, *second.token_ids],
    )
