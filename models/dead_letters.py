"""Dead letters: jobs that failed though their request was sound (faults.py). They are listed, and replayed: nothing
leaves a final status, so a replay is a new job that does the work over again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, func, literal, literal_column, select, tuple_, update

from models import reads
from models.database import Database
from models.errors import NotFound, RequestError
from models.faults import IS_DEAD_LETTER, OUR_FAULTS
from models.packing import clean_text
from models.records import JobRecord, NewJob
from models.rows import job_record
from models.status import Status
from models.submitting import Submitted, store_jobs
from models.tables import jobs

_PLACE = (jobs.c.finished_at, jobs.c.id)
_IS_DEAD_LETTER: ColumnElement[bool] = literal_column(IS_DEAD_LETTER)


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which dead letters; every field narrows. `is_replayed`: whether some job does their work over again."""

    model: str | None = None
    error_code: str | None = None
    batch_id: UUID | None = None
    is_replayed: bool | None = None


class DeadLetters:
    """Reads and replays, each one transaction. `tenant=None` is every tenant's."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def page(
        self, tenant: str | None, wanted: DeadLetterFilter, *, after: UUID | None, limit: int
    ) -> tuple[list[JobRecord], bool]:
        """A page, the last to fail first, without bodies; and whether another one follows.

        Raises RequestError `invalid_cursor` where `after` is none of the tenant's.
        """
        with self.database.read() as connection:
            rows = connection.execute(_page(connection, tenant, wanted, after, limit + 1)).all()
        return [job_record(row, ()) for row in rows[:limit]], len(rows) > limit

    def find(self, job_id: UUID, tenant: str | None) -> JobRecord | None:
        """A dead letter, without its body."""
        with self.database.read() as connection:
            row = connection.execute(_rows().where(*_this(job_id, tenant))).one_or_none()
        return None if row is None else job_record(row, ())

    def replay(self, job_id: UUID, tenant: str | None, again: Callable[[JobRecord], NewJob]) -> Submitted:
        """Store the job that `again` makes of a dead letter; `replayed` where one that was stored before does its work.

        A replay that became a dead letter in its turn is what is replayed then. Raises NotFound.
        """
        return self.database.write(lambda connection: _replay(connection, job_id, tenant, again))


def count_waiting(connection: Connection) -> dict[str, int]:
    """Count dead letters that nobody replayed, by code."""
    query = select(jobs.c.error_code, func.count()).where(_IS_DEAD_LETTER, jobs.c.replayed_as.is_(None))
    return {str(code): num for code, num in connection.execute(query.group_by(jobs.c.error_code))}


def _replay(
    connection: Connection, job_id: UUID, tenant: str | None, again: Callable[[JobRecord], NewJob]
) -> Submitted:
    letter = _lock(connection, job_id, tenant)
    if letter is None:
        raise NotFound
    while letter.replayed_as is not None and _is_there(connection, letter.replayed_as):
        replay = letter.replayed_as
        letter = _lock(connection, replay, tenant)  # not unless it is final: a claim passes over what is locked
        if letter is None:
            return Submitted(replay, replayed=True)
    [record] = reads.by_ids(connection, [letter.id], tenant)
    new = again(record)
    store_jobs(connection, [new])
    connection.execute(update(jobs).where(jobs.c.id == letter.id).values(replayed_as=new.id))
    return Submitted(new.id, replayed=False)


def _lock(connection: Connection, job_id: UUID, tenant: str | None) -> Row[Any] | None:
    """Hold a dead letter, so that two who replay it at once find the same."""
    query: Select[Any] = select(jobs.c.id, jobs.c.replayed_as).where(*_this(job_id, tenant))
    return connection.execute(query.with_for_update()).one_or_none()


def _is_there(connection: Connection, job_id: UUID) -> bool:
    return connection.execute(select(jobs.c.id).where(jobs.c.id == job_id)).first() is not None


def _page(
    connection: Connection, tenant: str | None, wanted: DeadLetterFilter, after: UUID | None, limit: int
) -> Select[Any]:
    query = _rows().where(*_these(tenant), *_narrowed(wanted))
    if after is not None:
        there = tuple_(*_place(connection, tenant, after), types=[column.type for column in _PLACE])
        query = query.where(tuple_(*_PLACE) < there)
    return query.order_by(*(column.desc() for column in _PLACE)).limit(limit)


def _place(connection: Connection, tenant: str | None, after: UUID) -> Row[Any]:
    """Where a dead letter stands in the list, for good: nothing of it changes any more."""
    query: Select[Any] = select(*_PLACE).where(*_this(after, tenant))
    row = connection.execute(query).one_or_none()
    if row is None:
        message = "after must be the id of a dead letter of this list that was not deleted"
        raise RequestError("invalid_cursor", message, param="after")
    return row


def _rows() -> Select[Any]:
    return select(jobs, literal("{}").label("body"))


def _these(tenant: str | None) -> list[ColumnElement[bool]]:
    return [_IS_DEAD_LETTER, *([] if tenant is None else [jobs.c.tenant == tenant])]


def _this(job_id: UUID, tenant: str | None) -> list[ColumnElement[bool]]:
    """A dead letter by its id: in words that keep a planner from walking all of them for it."""
    is_ours = jobs.c.error_code.in_(sorted(OUR_FAULTS))
    return [reads.this_job(job_id, tenant), jobs.c.status.concat("") == Status.FAILED, is_ours]


def _narrowed(wanted: DeadLetterFilter) -> list[ColumnElement[bool]]:
    conditions = [] if wanted.model is None else [jobs.c.model == clean_text(wanted.model)]
    if wanted.error_code is not None:
        conditions.append(jobs.c.error_code == wanted.error_code)
    if wanted.batch_id is not None:
        conditions.append(jobs.c.batch_id == wanted.batch_id)
    if wanted.is_replayed is not None:
        conditions.append(jobs.c.replayed_as.is_not(None) if wanted.is_replayed else jobs.c.replayed_as.is_(None))
    return conditions
