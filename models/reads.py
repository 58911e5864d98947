"""Reading jobs back, with their bodies and completions."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Select, func, select

from models.columns import constant, is_one_of, now
from models.records import CompletionRecord, JobRecord, WorkerRecord
from models.rows import completion_record, job_record, worker_record
from models.status import Status
from models.tables import completions, jobs, payloads, workers

_JOBS = select(jobs, payloads.c.body).join(payloads, payloads.c.job_id == jobs.c.id)


def by_ids(connection: Connection, ids: Sequence[UUID], tenant: str | None) -> list[JobRecord]:
    """Read the jobs that exist among `ids`, in the order of `ids`."""
    query = _JOBS.where(is_one_of(connection, jobs.c.id, ids))
    if tenant is not None:
        query = query.where(jobs.c.tenant == tenant)
    found = {record.id: record for record in _records(connection, query)}
    return [found[id] for id in ids if id in found]


def of_batch(
    connection: Connection, batch_id: UUID, *, after_line: int, limit: int, status: Status | None = None
) -> list[JobRecord]:
    """Read rows of a batch in the order of its lines, by keyset: a page costs the same wherever it is."""
    rows = select(jobs).where(jobs.c.batch_id == batch_id, jobs.c.line > after_line)
    if status is not None:
        rows = rows.where(jobs.c.status == constant(status))
    page = rows.order_by(jobs.c.line).limit(limit).subquery()  # cut first, so that only a page of bodies is read
    query = select(page, payloads.c.body).join(payloads, payloads.c.job_id == page.c.id)
    return _records(connection, query.order_by(page.c.line))


def statuses(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, Status]:
    """Read where jobs stand; ids that name none are absent."""
    query = select(jobs.c.id, jobs.c.status).where(is_one_of(connection, jobs.c.id, ids))
    return {row.id: Status(row.status) for row in connection.execute(query)}


def queue_depth(connection: Connection) -> dict[str, int]:
    """Count queued jobs by model."""
    depth: Counter[str] = Counter()
    for part in (jobs.c.published_at.is_(None), jobs.c.published_at.is_not(None)):  # each has its index
        query = select(jobs.c.model, func.count()).where(jobs.c.status == constant(Status.QUEUED), part)
        depth.update({model: num for model, num in connection.execute(query.group_by(jobs.c.model))})
    return dict(depth)


def live_workers(connection: Connection) -> list[WorkerRecord]:
    """Read the workers whose lease lasts."""
    query = select(workers).where(workers.c.lease_until > now()).order_by(workers.c.slot)
    return [worker_record(row) for row in connection.execute(query).mappings()]


def _records(connection: Connection, query: Select[Any]) -> list[JobRecord]:
    rows = connection.execute(query).all()
    choices = _completions(connection, [row.id for row in rows if row.status == Status.COMPLETED])
    return [job_record(row, choices[row.id]) for row in rows]


def _completions(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, list[CompletionRecord]]:
    found: defaultdict[UUID, list[CompletionRecord]] = defaultdict(list)
    if ids:
        query = select(completions).where(is_one_of(connection, completions.c.job_id, ids))
        for row in connection.execute(query.order_by(completions.c.job_id, completions.c.choice_index)):
            found[row.job_id].append(completion_record(row))
    return found
