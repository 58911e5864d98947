"""How a stream is sent: signs of life, an end to patience, the client's pace. Without a server between."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from api.rendering.job_events import Cursor, JobEvents
from api.streams.feed import MAX_ENTRIES, Feed
from api.streams.following import Following
from api.streams.streaming import KEEPALIVE, EventStream
from api.waiting import Watch
from models.database import Database
from models.store import Store
from tests.integration.api.conftest import NO_REDIS
from tests.integration.api.fakes import Worker
from tests.integration.api.streams import Publisher, read_events, submitted


@dataclass
class Connection:
    """The two ends that an ASGI server gives: it stays open, and takes as much as it is let to."""

    open_gate: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    sent: list[dict[str, Any]] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    takes: int | None = None  # so many messages before the gate closes

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:  # noqa: ANN401 (any ASGI message)
        self.sent.append(message)
        self.arrived.set()
        if len(self.sent) == self.takes:
            self.open_gate.clear()
        await self.open_gate.wait()

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.sent if message["type"] == "http.response.body"]

    async def until(self, body: bytes) -> None:
        while body not in self.bodies:
            self.arrived.clear()
            await self.arrived.wait()


@pytest.fixture
def job_id(database: Database) -> UUID:
    return submitted(database)


def following(database: Database, job_id: UUID, feed: Feed) -> Following:
    store = Store(database)
    job = store.job(job_id)
    assert job is not None
    return Following(store, Watch(store), feed, job)


def events_of(connection: Connection) -> Iterator[Any]:
    lines = b"".join(connection.bodies).decode().split("\n")
    return (event for event in read_events(lines) if event.data is not None)


def test_silence_is_filled_with_comments(database: Database, job_id: UUID, worker: Worker) -> None:
    async def listen() -> Connection:
        connection = Connection()
        connection.open_gate.set()
        followed = following(database, job_id, Feed(NO_REDIS))
        stream = EventStream(followed, JobEvents(Cursor()).render, heartbeat_seconds=0.01)
        answer = asyncio.create_task(stream({}, connection.receive, connection.send))
        await connection.until(KEEPALIVE)
        worker.complete(worker.claim(job_id))
        await answer
        return connection

    connection = asyncio.run(listen())

    assert [event.name for event in events_of(connection)][-2:] == ["delta", "job"]
    assert connection.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


def test_patience_ends_with_an_error_that_names_the_job(database: Database, job_id: UUID) -> None:
    async def listen() -> Connection:
        connection = Connection()
        connection.open_gate.set()
        followed = following(database, job_id, Feed(NO_REDIS))
        stream = EventStream(followed, JobEvents(Cursor()).render, heartbeat_seconds=0.03, patience_seconds=0.1)
        await stream({}, connection.receive, connection.send)
        return connection

    connection = asyncio.run(listen())

    error = list(events_of(connection))[-1].data["error"]
    assert (error["code"], error["type"]) == ("sync_timeout", "timeout_error")
    assert job_id.hex in error["message"]
    assert KEEPALIVE in connection.bodies


def test_client_that_takes_nothing_is_not_read_for(
    database: Database, job_id: UUID, worker: Worker, redis_url: str
) -> None:
    """What is waiting stays in Redis: here one round of a feed is held at most."""
    claimed = worker.claim(job_id)
    publisher = Publisher(redis_url, job_id)
    publisher.say(*["x"] * (3 * MAX_ENTRIES))

    async def listen() -> Connection:
        connection, feed = Connection(takes=3), Feed(redis_url)
        stream = EventStream(following(database, job_id, feed), JobEvents(Cursor()).render)
        connection.open_gate.set()
        answer = asyncio.create_task(stream({}, connection.receive, connection.send))
        while connection.open_gate.is_set():
            connection.arrived.clear()
            await connection.arrived.wait()
        await asyncio.sleep(0.1)  # time to read on in, for one that would
        publisher.forget()
        worker.complete(claimed, "x" * (3 * MAX_ENTRIES))
        connection.open_gate.set()
        await answer
        await feed.close()
        return connection

    connection = asyncio.run(listen())
    publisher.close()

    texts = [event.data["text"] for event in events_of(connection) if event.name == "delta"]
    assert "".join(texts) == "x" * (3 * MAX_ENTRIES)
    assert len(texts) == MAX_ENTRIES + 1
    assert len(texts[-1]) == 2 * MAX_ENTRIES


def test_client_that_hangs_up_ends_the_stream(database: Database, job_id: UUID) -> None:
    told: list[str] = []

    async def listen() -> None:
        connection = Connection()
        followed = following(database, job_id, Feed(NO_REDIS))
        stream = EventStream(followed, JobEvents(Cursor()).render, on_gone=lambda: told.append("gone"))
        connection.open_gate.set()
        answer = asyncio.create_task(stream({}, connection.receive, connection.send))
        await connection.arrived.wait()
        connection.gone.set()
        await answer

    asyncio.run(listen())

    assert told == ["gone"]
