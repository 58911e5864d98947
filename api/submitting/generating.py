"""Asking for a generation: check, store, announce, answer; at once in the background, else when the job is done.

Knows three endpoints and no difference between them but the schema.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool

from api.auth import Caller, caller_of
from api.body import read_raw_json
from api.errors import CLIENT_GONE
from api.rendering.bodies import background_body
from api.responses import REPLAYED, json_response
from api.services import Services
from api.streams.streaming import stream_answer
from api.submitting.endings import completed
from api.submitting.idempotent import once_of
from api.submitting.submission import new_job, submit
from api.waiting import patience_seconds, unless_gone
from models.errors import NotFound, ResultExpired
from models.idempotency import Once
from models.ids import uuid7
from models.records import JobRecord, NewJob, queued_record
from models.requests import known_fields, parse_body
from models.rules import AnyRequest
from models.status import FINAL, Status
from models.strict_json import parse
from models.submitting import Submitted

IGNORED_HEADER = "x-ignored-parameters"
_SOUND_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)  # of a field, where it is put into a header


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was checked, and the job it wants."""

    parsed: AnyRequest
    job: NewJob
    once: Once | None
    num_bytes: int
    headers: Mapping[str, str]  # for the answer

    @property
    def may_cancel(self) -> bool:
        """Whether the job ends with its connection: nobody else was told of it, and nobody means to come back."""
        is_kept = self.parsed.background or self.parsed.store is True
        return not is_kept and (self.once is None or self.once.is_hidden)


async def generate(request: Request, endpoint: str) -> Response:
    """Answer a POST of one of the generation endpoints."""
    services: Services = request.app.state.services
    caller = await caller_of(request)
    asked = await _check(request, services, caller, endpoint)
    submitted = await submit(services, asked.job, once=asked.once, num_bytes=asked.num_bytes)
    headers = {**asked.headers, **(REPLAYED if submitted.replayed else {})}
    if asked.parsed.stream:
        return await stream_answer(
            request,
            services,
            caller,
            submitted.id,
            background=asked.parsed.background,
            may_cancel=asked.may_cancel,
            headers=headers,
        )
    if asked.parsed.background:
        return json_response(background_body(await _just_stored(services, asked.job, submitted)), headers=headers)
    job = await _result(request, services, asked, submitted)
    if job is None:
        return Response(status_code=CLIENT_GONE)
    if job.status in FINAL or asked.parsed.on_timeout == "error":
        job = completed(job)
    return json_response(background_body(job), headers=headers)


async def _check(request: Request, services: Services, caller: Caller, endpoint: str) -> Asked:
    """Read and check everything before anything is stored."""
    raw = await read_raw_json(request)
    body, headers = parse(raw), {}
    if not services.settings.strict and isinstance(body, Mapping):
        body, unknown = known_fields(endpoint, body)
        headers = _ignored(unknown)
    parsed = parse_body(endpoint, body)
    once = once_of(request, body, key=parsed.idempotency_key)
    job = await new_job(services, caller.tenant, endpoint, parsed)
    return Asked(parsed, job, once, len(raw), headers)


def _ignored(names: list[str]) -> dict[str, str]:
    """The header that names dropped fields; one that could forge a header stays out of it."""
    sound = [name for name in names if _SOUND_NAME.fullmatch(name)]
    return {IGNORED_HEADER: ", ".join(sound[:20])} if sound else {}


async def _just_stored(services: Services, job: NewJob, submitted: Submitted) -> JobRecord:
    """The job as it stands; a new one is known without looking."""
    if submitted.replayed:
        return await run_in_threadpool(_read, services, job.tenant, submitted)
    return queued_record(job, datetime.now(UTC))


async def _result(request: Request, services: Services, asked: Asked, submitted: Submitted) -> JobRecord | None:
    """Wait for the job. A repetition that found the job of a first try, only to see it cancelled because that try's
    connection broke, asks anew: what its client wants was never cancelled by anybody."""
    job = await _finished(request, services, asked, submitted)
    if job is None or asked.once is None or not (asked.once.is_hidden and submitted.replayed):
        return job
    if job.status is Status.CANCELLED:
        again = replace(asked.job, id=uuid7())
        submitted = await submit(services, again, once=asked.once.anew(), num_bytes=asked.num_bytes)
        return await _finished(request, services, asked, submitted)
    return job


async def _finished(request: Request, services: Services, asked: Asked, submitted: Submitted) -> JobRecord | None:
    """The job once it is final or patience is over; None when the client hung up, which cancels a job that only it
    waits for."""
    most = services.settings.sync_timeout_seconds
    seconds = patience_seconds(request.headers, wanted=most, most=most)

    def forget() -> None:
        if asked.may_cancel and services.holders.is_alone(submitted.id):
            services.store.cancel(submitted.id, asked.job.tenant)

    with services.holders.holding(submitted.id):
        waiting = services.watch.wait(submitted.id, FINAL.__contains__, seconds=seconds)
        reached = await unless_gone(request, waiting, on_gone=forget)
        return None if reached is None else await run_in_threadpool(_read, services, asked.job.tenant, submitted)


def _read(services: Services, tenant: str, submitted: Submitted) -> JobRecord:
    job = services.store.job(submitted.id, tenant)
    if job is None:
        raise NotFound
    if job.is_expired:  # a replay of what was submitted long ago
        raise ResultExpired
    return job
