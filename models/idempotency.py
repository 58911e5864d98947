"""Idempotency keys: a request repeated with the same key finds what the first one stored, a job or a batch.

Many requests are settled in one transaction. A first request in flight elsewhere is waited for, milliseconds, by the
row's lock; so no request ever has to be told that another one is in progress.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, delete, or_, select, tuple_

from models import dialects
from models.columns import from_now, is_one_of
from models.errors import IdempotencyKeyReused
from models.records import NewBatch, NewJob
from models.status import Status
from models.tables import idempotency, jobs

KEPT_SECONDS = 24 * 3600.0
RETRY_SECONDS = 600.0  # a client that repeats a request by itself does so within seconds
HIDDEN = "\x01"  # what the keys of blind repetitions begin with; no header can hold it

Place = tuple[str, str]  # tenant and key


@dataclass(frozen=True, slots=True)
class Once:
    """Under which key a request is remembered. What was kept longer ago than `max_age_seconds` is forgotten: with 0
    the key is always taken anew. With `unless_cancelled` so is what was cancelled since."""

    key: str
    path: str
    body_hash: bytes
    max_age_seconds: float = KEPT_SECONDS
    unless_cancelled: bool = False

    @property
    def is_hidden(self) -> bool:
        """Whether nobody chose the key, so that the client does not know that it may come back."""
        return self.key.startswith(HIDDEN)

    def anew(self) -> "Once":
        """The same key, taken whatever holds it."""
        return replace(self, max_age_seconds=0.0)


@dataclass(frozen=True, slots=True)
class Keyed:
    """Something about to be stored, and how it is remembered."""

    new: NewJob | NewBatch
    once: Once

    @property
    def place(self) -> Place:
        """Where its key stands; keys belong to tenants."""
        return self.new.tenant, self.once.key


def by_key(key: str, path: str, body_hash: bytes) -> Once:
    """A key that the client chose."""
    return Once(key, path, body_hash)


def by_retry_count(path: str, body_hash: bytes, *, retry_count: int) -> Once:
    """A client that tells how often it tried: its repetitions find what its first try stored, of equal tries the
    latest; but not what was cancelled as the first try's connection broke."""
    key = f"{HIDDEN}{path} {body_hash.hex()}"
    if retry_count == 0:
        return Once(key, path, body_hash, max_age_seconds=0.0)
    return Once(key, path, body_hash, max_age_seconds=RETRY_SECONDS, unless_cancelled=True)


def remember(connection: Connection, wanted: Sequence[Keyed]) -> list[UUID | IdempotencyKeyReused | None]:
    """For each in turn: None, it is new and to be stored; the id it was stored by before; or the error it is
    refused with. Of several with one key in `wanted` the first is stored, unless their keys are to be taken anew."""
    writers: dict[Place, Keyed] = {}
    for one in wanted:
        if one.once.max_age_seconds == 0 or one.place not in writers:
            writers[one.place] = one
    kept = _keep(connection, writers.values())
    held = _held(connection, writers.keys() - kept)
    gone = _cancelled(connection, [held[place] for place in held if writers[place].once.unless_cancelled])
    again = [writers[place] for place, row in held.items() if row.job_id in gone]
    kept |= _take(connection, again, max_age_seconds=0.0)
    return [_found(one, writers[one.place], held.get(one.place) if one.place not in kept else None) for one in wanted]


def forget(connection: Connection, limit: int) -> int:
    """Delete keys whose time is over; returns how many. A repetition may come up to that moment, and none after it."""
    is_over = or_(
        idempotency.c.created_at <= from_now(-KEPT_SECONDS),
        idempotency.c.key.startswith(HIDDEN, autoescape=True) & (idempotency.c.created_at <= from_now(-RETRY_SECONDS)),
    )
    old = select(idempotency.c.tenant, idempotency.c.key).where(is_over).limit(limit).with_for_update(skip_locked=True)
    place = tuple_(idempotency.c.tenant, idempotency.c.key)
    return connection.execute(delete(idempotency).where(place.in_(old))).rowcount


def _found(one: Keyed, writer: Keyed, row: Row[Any] | None) -> UUID | IdempotencyKeyReused | None:
    """`row` is what was there before; None: the writer, one of this group, has the key now."""
    if one is writer and row is None:
        return None
    if one.once.max_age_seconds == 0:
        return None
    path, body_hash = (writer.once.path, writer.once.body_hash) if row is None else (row.path, bytes(row.body_hash))
    if (path, body_hash) != (one.once.path, one.once.body_hash):
        return IdempotencyKeyReused()
    return writer.new.id if row is None else (row.job_id or row.batch_id)


def _keep(connection: Connection, writers: Iterable[Keyed]) -> set[Place]:
    """Take the keys that are free or forgotten; a statement for each age, of which there are three."""
    by_age: dict[float, list[Keyed]] = {}
    for writer in writers:
        by_age.setdefault(writer.once.max_age_seconds, []).append(writer)
    kept: set[Place] = set()
    for age, group in sorted(by_age.items()):
        kept |= _take(connection, group, max_age_seconds=age)
    return kept


def _take(connection: Connection, writers: Sequence[Keyed], *, max_age_seconds: float) -> set[Place]:
    """Write the keys, replacing what is older. Returns those written; the others are locked until the end."""
    if not writers:
        return set()
    rows = [_values(writer) for writer in sorted(writers, key=lambda writer: writer.place)]  # one order of locks
    return dialects.of(connection).keep_keys(connection, rows, max_age_seconds=max_age_seconds)


def _values(writer: Keyed) -> dict[str, Any]:
    is_job = isinstance(writer.new, NewJob)
    return {
        "tenant": writer.new.tenant,
        "key": writer.once.key,
        "path": writer.once.path,
        "body_hash": writer.once.body_hash,
        "job_id": writer.new.id if is_job else None,
        "batch_id": None if is_job else writer.new.id,
    }


def _held(connection: Connection, places: Iterable[Place]) -> dict[Place, Row[Any]]:
    wanted = list(places)
    if not wanted:
        return {}
    query = select(idempotency).where(tuple_(idempotency.c.tenant, idempotency.c.key).in_(wanted))
    return {(row.tenant, row.key): row for row in connection.execute(query)}


def _cancelled(connection: Connection, rows: Sequence[Row[Any]]) -> set[UUID]:
    """Which of the jobs that hold keys were cancelled, or are about to be."""
    ids = [row.job_id for row in rows if row.job_id is not None]
    if not ids:
        return set()
    is_cancelled = or_(jobs.c.status.concat("") == Status.CANCELLED, jobs.c.cancel_requested)
    return set(connection.scalars(select(jobs.c.id).where(is_one_of(connection, jobs.c.id, ids), is_cancelled)))
