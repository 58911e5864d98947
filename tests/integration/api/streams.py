"""For tests of streams: a scripted publisher on a real Redis, and server-sent events read from a real connection."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import redis

from models.database import Database
from models.feed import FIELD, Delta, encode, feed_key
from models.ids import uuid7
from models.records import NewJob
from models.store import Store


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it came: comments have neither name nor data."""

    data: Any = None
    name: str | None = None
    id: str | None = None
    comment: str | None = None

    @property
    def is_done(self) -> bool:
        return bool(self.data == "[DONE]")


def read_events(lines: Iterable[str]) -> Iterator[Event]:
    """The events of an open answer, one after the other as they come."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name or "comment"] = value
        elif fields:
            yield _event(fields)
            fields = {}


def _event(fields: dict[str, str]) -> Event:
    data: Any = fields.get("data")
    if data is not None and data != "[DONE]":
        data = json.loads(data)
    return Event(data, fields.get("event"), fields.get("id"), fields.get("comment"))


@contextmanager
def listening(server: httpx.Client, path: str, *, headers: dict[str, str] | None = None) -> Iterator[Iterator[Event]]:
    """The events of GET `path`, while the block lasts."""
    with server.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        yield read_events(answer.iter_lines())


def submitted(database: Database, endpoint: str = "/v1/completions", **body: Any) -> UUID:  # noqa: ANN401 (any field)
    """A stored job that streams."""
    job = NewJob(uuid7(), "demo", endpoint, {"prompt": "hello", "seed": 7, "stream": True, **body})
    Store(database).submit([job])
    return job.id


class Publisher:
    """Publishes the feed of one job, as a worker would."""

    def __init__(self, redis_url: str, job_id: UUID) -> None:
        self._redis = redis.Redis.from_url(redis_url)
        self._key = feed_key(job_id)
        self._sent: dict[int, int] = {}

    def say(self, *texts: str, choice: int = 0) -> None:
        """Publish pieces that follow on what was said."""
        for text in texts:
            offset = self._sent.get(choice, 0)
            self.publish(Delta(choice, offset, text))
            self._sent[choice] = offset + len(text)

    def publish(self, delta: Delta) -> None:
        """Publish one entry as it is."""
        self._redis.xadd(self._key, {FIELD: encode(delta)})

    def begin_again(self) -> None:
        """Forget what was said: another attempt says it again."""
        self._sent.clear()

    def forget(self) -> None:
        """Lose what was published, as a Redis that restarts does."""
        self._redis.delete(self._key)

    def close(self) -> None:
        self._redis.close()
