"""Which jobs a list shows: filters and keyset pages, so that a page costs the same wherever it is.

Jobs outside batches are ordered by (created_at, id). Their index has endpoint and status before that, so a list over
several of them merges one range of it for each. A batch's rows are ordered by their line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import product
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, select, tuple_, union_all

from models import job_metadata as index
from models.columns import constant
from models.errors import RequestError
from models.ids import JOB_ENDPOINTS
from models.packing import clean_text
from models.status import Status
from models.tables import job_metadata, jobs


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs; every field narrows. Without `batch_id` those outside batches; their metadata alone is indexed."""

    batch_id: UUID | None = None
    status: Status | None = None
    endpoint: str | None = None
    model: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    created_after: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list: at most `limit` entries, after the one with the id `after`."""

    limit: int
    after: UUID | None = None
    is_descending: bool = True


def page_ids(connection: Connection, tenant: str, wanted: JobFilter, page: Page) -> list[UUID]:
    """The ids of a page in its order, and one more where there is a next page. Raises RequestError `invalid_cursor`."""
    last = None if page.after is None else _place(connection, tenant, wanted, page.after)
    if wanted.batch_id is not None:
        query = _of_batch(tenant, wanted, page, last)
    elif wanted.metadata:
        query = _with_metadata(tenant, wanted, page, last)
    else:
        query = _alone(tenant, wanted, page, last)
    return list(connection.scalars(query))


def _place(connection: Connection, tenant: str, wanted: JobFilter, after: UUID) -> Row[Any]:
    """Where the job named by a cursor stands. Its status may have changed since it was listed."""
    query: Select[Any] = select(jobs.c.created_at, jobs.c.id, jobs.c.line).where(
        jobs.c.id == after, jobs.c.tenant == tenant
    )
    row = connection.execute(query.where(jobs.c.batch_id.is_not_distinct_from(wanted.batch_id))).one_or_none()
    if row is None:
        raise RequestError(
            "invalid_cursor", "after must be the id of a job of this list that was not deleted", param="after"
        )
    return row


def _alone(tenant: str, wanted: JobFilter, page: Page, last: Row[Any] | None) -> Select[tuple[UUID]]:
    """Merge the ranges of the index, each cut first."""
    endpoints = [wanted.endpoint] if wanted.endpoint else JOB_ENDPOINTS
    statuses = [wanted.status] if wanted.status else list(Status)
    rest = [jobs.c.tenant == tenant, jobs.c.batch_id.is_(None), *_model(wanted)]
    place = (jobs.c.created_at, jobs.c.id)
    parts = []
    for endpoint, status in product(endpoints, statuses):
        rows = select(*place).where(*rest, jobs.c.endpoint == endpoint, jobs.c.status == status)
        part = _cut(rows, place, wanted, page, last).subquery()
        parts.append(select(part.c.created_at, part.c.id))
    merged = union_all(*parts).subquery()
    return _ordered(select(merged.c.id), (merged.c.created_at, merged.c.id), page)


def _with_metadata(tenant: str, wanted: JobFilter, page: Page, last: Row[Any] | None) -> Select[tuple[UUID]]:
    """Walk the first pair's entries; the others and what else is wanted are looked up by id."""
    first, *others = wanted.metadata.items()
    rows = select(job_metadata.c.job_id).where(job_metadata.c.tenant == tenant, index.is_pair(*first))
    rows = rows.where(*(index.has_pair(job_metadata.c.job_id, *pair) for pair in others))
    about_job = [*_model(wanted), *_status(wanted), *_endpoint(wanted)]
    if about_job:
        rows = rows.join(jobs, jobs.c.id == job_metadata.c.job_id).where(*about_job)
    return _cut(rows, (job_metadata.c.created_at, job_metadata.c.job_id), wanted, page, last)


def _of_batch(tenant: str, wanted: JobFilter, page: Page, last: Row[Any] | None) -> Select[tuple[UUID]]:
    """Walk the batch's lines."""
    rows = select(jobs.c.id).where(jobs.c.batch_id == wanted.batch_id, jobs.c.tenant == tenant)
    rows = rows.where(*_model(wanted), *_status(wanted), *_endpoint(wanted), *_times(jobs.c.created_at, wanted))
    if last is not None:
        rows = rows.where(jobs.c.line < last.line if page.is_descending else jobs.c.line > last.line)
    return _ordered(rows, (jobs.c.line,), page)


def _cut(
    rows: Select[Any], place: tuple[ColumnElement[Any], ...], wanted: JobFilter, page: Page, last: Row[Any] | None
) -> Select[Any]:
    """The part of rows ordered by (created_at, id) that a page needs."""
    rows = rows.where(*_times(place[0], wanted))
    if last is not None:
        here, there = tuple_(*place), tuple_(last.created_at, last.id, types=[column.type for column in place])
        rows = rows.where(here < there if page.is_descending else here > there)
    return _ordered(rows, place, page)


def _ordered(rows: Select[Any], place: tuple[ColumnElement[Any], ...], page: Page) -> Select[Any]:
    """A page of rows, and one more to know whether another page follows."""
    order = [column.desc() if page.is_descending else column.asc() for column in place]
    return rows.order_by(*order).limit(page.limit + 1)


def _times(created_at: ColumnElement[datetime], wanted: JobFilter) -> list[ColumnElement[bool]]:
    after = [] if wanted.created_after is None else [created_at > wanted.created_after]
    return after if wanted.created_before is None else [*after, created_at < wanted.created_before]


def _model(wanted: JobFilter) -> list[ColumnElement[bool]]:
    return [] if wanted.model is None else [jobs.c.model == clean_text(wanted.model)]


def _endpoint(wanted: JobFilter) -> list[ColumnElement[bool]]:
    return [] if wanted.endpoint is None else [jobs.c.endpoint == wanted.endpoint]


def _status(wanted: JobFilter) -> list[ColumnElement[bool]]:
    """Written out, so that a partial index over one status serves."""
    return [] if wanted.status is None else [jobs.c.status == constant(wanted.status)]
