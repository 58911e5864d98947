"""Answers that come piece by piece, as server-sent events.

The first byte waits for the first piece, the end, or HOLD_SECONDS, whichever is first: so a request that the engine
refuses gets the status that it would have got without streaming. What fails later is told inside the stream.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TypeGuard
from uuid import UUID

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from api.auth import Caller
from api.errors import CLIENT_GONE, answer_to, code_of, error_body, public_message
from api.rendering.job_events import Cursor, JobEvents
from api.rendering.progress import Item
from api.rendering.response_events import BEFORE_ALL, ResponseEvents, known_chars
from api.rendering.responses import response_body
from api.rendering.streams import Chunks, ServerEvent
from api.services import Services
from api.streams.following import Following
from api.submitting.endings import completed
from api.waiting import unless_gone
from models.errors import BatchmillError, NotFound
from models.records import JobRecord
from models.requests import RESPONSES
from models.status import FINAL

HOLD_SECONDS = 1.0
HEARTBEAT_SECONDS = 15.0  # proxies cut what is silent for longer, often after 30 or 60
KEEPALIVE = b": keepalive\n\n"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}  # the latter: nginx would collect the pieces

Render = Callable[[Item], Iterator[bytes]]


async def stream_answer(
    request: Request,
    services: Services,
    caller: Caller,
    job_id: UUID,
    *,
    background: bool,
    may_cancel: bool,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer a generation request with the stream of its job. Raises what the synchronous answer would raise, as long
    as nothing was sent.

    In the background nobody's patience ends. `may_cancel`: nobody but this client knows of the job, so it ends with the
    connection.
    """
    job = await _read(services, caller, job_id)

    def forget() -> None:
        if may_cancel and services.holders.is_alone(job_id):
            services.store.cancel(job_id, caller.tenant)

    with ExitStack() as stack:
        stack.enter_context(services.holders.holding(job_id))
        following = _follow(services, job)
        stack.callback(following.close)
        held = await _held_back(request, following, job, background=background, on_gone=forget)
        if held is None:
            return Response(status_code=CLIENT_GONE)
        on_end = stack.pop_all().close
    return EventStream(
        following,
        _renderer(job),
        first=held,
        patience_seconds=None if background else services.settings.sync_timeout_seconds,
        on_gone=forget,
        on_end=on_end,
        headers=headers,
    )


async def _held_back(
    request: Request, following: Following, job: JobRecord, *, background: bool, on_gone: Callable[[], object]
) -> Sequence[Item] | None:
    """What is there before the first byte goes out; None when the client hung up. Raises as the synchronous answer."""
    if background and job.endpoint == RESPONSES:
        return []  # told from its first state on, and its failure is one of its events
    held = await unless_gone(request, _lead(following), on_gone=on_gone)
    if held and not background and _is_end(held[-1]):
        completed(held[-1])
    return held


def _renderer(job: JobRecord) -> Render:
    """What writes a created job's stream: its endpoint's form."""
    return ResponseEvents(job, response_body).render if job.endpoint == RESPONSES else _or_raise(Chunks(job).render)


async def stream_response(services: Services, caller: Caller, job_id: UUID, *, starting_after: int | None) -> Response:
    """Answer with the events of a response behind a sequence number, or with all of them. Raises NotFound."""
    job = await _read(services, caller, job_id)
    if job.endpoint != RESPONSES:
        raise NotFound
    after = BEFORE_ALL if starting_after is None else starting_after
    following = _follow(services, job, known_chars={0: known_chars(after)})
    return EventStream(following, ResponseEvents(job, response_body, starting_after=after).render)


async def stream_job(services: Services, caller: Caller, job_id: UUID, cursor: Cursor) -> Response:
    """Answer with the events of any job behind a place. Raises NotFound."""
    job = await _read(services, caller, job_id)
    if cursor.is_final:
        return Response(status_code=204)  # tells a browser not to come again
    return EventStream(_follow(services, job, known_chars=cursor.chars), JobEvents(cursor).render)


class EventStream(Response):
    """Sends what a job says as it comes, at the client's pace: nothing is rendered before the last piece was taken."""

    media_type = "text/event-stream"

    def __init__(
        self,
        following: Following,
        render: Render,
        *,
        first: Sequence[Item] = (),
        patience_seconds: float | None = None,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        on_gone: Callable[[], object] = lambda: None,
        on_end: Callable[[], object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`first`: what was taken from `following` already. `patience_seconds`: how long a job may say nothing at all.
        `on_gone` runs on a thread when the client hangs up, `on_end` at the end of any kind: it closes `following`."""
        super().__init__(headers=HEADERS | dict(headers or {}))
        del self.headers["content-length"]
        self._following = following
        self._render = render
        self._first = first
        self._patience_seconds = patience_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._on_gone = on_gone
        self._on_end = on_end or following.close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the job ends or the client hangs up."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        telling = asyncio.create_task(self._tell(send))
        gone = asyncio.create_task(_hung_up(receive))
        try:
            await asyncio.wait({telling, gone}, return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                telling.result()
            else:
                await run_in_threadpool(self._on_gone)
        finally:
            telling.cancel()
            gone.cancel()
            self._on_end()

    async def _tell(self, send: Send) -> None:
        try:
            async for item in self._items():
                for body in (KEEPALIVE,) if item is None else self._render(item):
                    await send({"type": "http.response.body", "body": body, "more_body": True})
        except BatchmillError as error:
            await send({"type": "http.response.body", "body": _error_event(error), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _items(self) -> AsyncIterator[Item | None]:
        """What the job says to its end; None where it says nothing for a while. Raises SyncTimeout."""
        for item in self._first:
            yield item
        is_over = bool(self._first) and _is_end(self._first[-1])
        silent_seconds = 0.0
        while not is_over:
            seconds = self._heartbeat_seconds
            if self._patience_seconds is not None:
                seconds = min(seconds, self._patience_seconds - silent_seconds)
            try:
                async with asyncio.timeout(seconds):
                    item = await self._following.next()
            except TimeoutError:
                silent_seconds += seconds
                if self._patience_seconds is not None and silent_seconds >= self._patience_seconds:
                    completed(self._following.job)
                yield None
            else:
                silent_seconds = 0.0
                is_over = _is_end(item)
                yield item


async def _lead(following: Following) -> list[Item]:
    """What a job says up to its first piece of text or its end, or in the time that a first byte may wait."""
    held: list[Item] = []
    try:
        async with asyncio.timeout(HOLD_SECONDS):
            while not held or (isinstance(held[-1], JobRecord) and not _is_end(held[-1])):
                held.append(await following.next())
    except TimeoutError:
        pass
    return held


def _or_raise(render: Render) -> Render:
    """Render, and raise at an end that is no completion: chunks have no words for it."""

    def rendered(item: Item) -> Iterator[bytes]:
        if _is_end(item):
            completed(item)
        yield from render(item)

    return rendered


def _is_end(item: Item) -> TypeGuard[JobRecord]:
    return isinstance(item, JobRecord) and item.status in FINAL


def _follow(services: Services, job: JobRecord, *, known_chars: Mapping[int, int] | None = None) -> Following:
    return Following(services.store, services.watch, services.feed, job, known_chars=known_chars)


async def _read(services: Services, caller: Caller, job_id: UUID) -> JobRecord:
    job = await run_in_threadpool(services.store.job, job_id, caller.tenant)
    if job is None:
        raise NotFound
    return job


def _error_event(error: BatchmillError) -> bytes:
    """An error in the middle of a stream: the official client raises APIError."""
    answer = answer_to(error)
    code, param = answer.code or code_of(error), getattr(error, "param", None)
    body = error_body(message=public_message(error, answer), type=answer.type, code=code, param=param)
    return ServerEvent(body).encode()


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
