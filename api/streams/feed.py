"""Listening to the feeds of jobs that stream: one connection and one question for all who listen, no thread held.

A feed is a shortcut (models/feed.py). While Redis is away nobody hears anything and nobody is told: listeners also
watch the table, which has the truth.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from models.feed import FIELD, Delta, decode, feed_key

log = logging.getLogger(__name__)

BEGINNING = b"0-0"
TIMEOUT_SECONDS = 2.0
AWAY_SECONDS = 1.0  # between two tries while Redis is away
BLOCK_SECONDS = 0.02  # who comes while a question is under way waits this long at most until it is part of the next
PAUSE_SECONDS = 0.005  # between two questions: what is published meanwhile comes together
MAX_ENTRIES = 100  # a feed and question: who reads slowly is kept in Redis, not here


@dataclass(frozen=True, slots=True)
class Entries:
    """What a feed had to tell, and where to read on."""

    last: bytes
    deltas: Sequence[Delta]


@dataclass(eq=False)
class _Listener:
    key: bytes
    after: bytes
    heard: "asyncio.Future[Entries]"


class Feed:
    """Asks Redis while somebody listens, and only then."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._listeners: set[_Listener] = set()
        self._task: asyncio.Task[None] | None = None
        self._redis: Redis | None = None
        self._is_away = False

    async def close(self) -> None:
        """Stop asking and hang up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._redis is not None:
            await self._redis.aclose()
        self._task = self._redis = None

    async def read(self, job_id: UUID, *, after: bytes) -> Entries:
        """Wait for entries of a job's feed after a place in it, for as long as it takes. Cancel it to stop listening.

        Nothing is read ahead: a listener who does not ask is not read for.
        """
        future: asyncio.Future[Entries] = asyncio.get_running_loop().create_future()
        listener = _Listener(feed_key(job_id).encode(), after, future)
        self._listeners.add(listener)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._listen())
        try:
            return await future
        finally:
            self._listeners.discard(listener)

    async def _listen(self) -> None:
        """Ask, tell, pause, until nobody listens."""
        self._redis = self._redis or _client(self._url)
        while self._listeners:
            try:
                await self._ask_once(self._redis)
            except (RedisError, OSError) as error:
                self._note_away(error)
                await asyncio.sleep(AWAY_SECONDS)
            else:
                self._is_away = False
                await asyncio.sleep(PAUSE_SECONDS)

    async def _ask_once(self, client: Redis) -> None:
        """One XREAD over all the feeds; of a feed with several listeners from the place of the last of them.

        Who comes meanwhile is not told: the answer may begin behind the place from which they want to read.
        """
        listeners, places = list(self._listeners), dict[bytes, bytes]()
        for listener in listeners:
            places[listener.key] = min(places.get(listener.key, listener.after), listener.after, key=_order)
        block_milliseconds = int(BLOCK_SECONDS * 1000)
        streams: dict[Any, Any] = {**places}  # the library's own types let neither keys nor answers be bytes
        answer: Any = await client.xread(streams, count=MAX_ENTRIES, block=block_milliseconds)
        self._tell(listeners, dict(answer or ()))

    def _tell(
        self, listeners: Sequence[_Listener], feeds: Mapping[bytes, Sequence[tuple[bytes, Mapping[bytes, bytes]]]]
    ) -> None:
        for listener in listeners:
            new = [entry for entry in feeds.get(listener.key, ()) if _order(entry[0]) > _order(listener.after)]
            if new and not listener.heard.done():
                listener.heard.set_result(Entries(new[-1][0], _deltas(new)))
                self._listeners.discard(listener)

    def _note_away(self, error: Exception) -> None:
        """Say once an outage that texts come late."""
        if not self._is_away:
            log.warning("streams wait for the table: %s", error, extra={"action": "feed_away"})
        self._is_away = True


def _client(url: str) -> Redis:
    """A client that gives up soon, and answers in the shape of RESP2 whatever the library prefers."""
    return Redis.from_url(
        url,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )


def _deltas(entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> list[Delta]:
    """The entries that can be read. Another one leaves a gap, which the committed result fills."""
    deltas = []
    for _, fields in entries:
        try:
            deltas.append(decode(fields[FIELD]))
        except (KeyError, TypeError, ValueError) as error:
            log.warning("unreadable entry of a feed: %r", error, extra={"action": "feed_unreadable"})
    return deltas


def _order(entry_id: bytes) -> tuple[int, int]:
    """The place of an entry: milliseconds and a count."""
    milliseconds, _, count = entry_id.partition(b"-")
    return int(milliseconds), int(count)
