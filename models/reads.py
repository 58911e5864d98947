"""Reading jobs back, with their bodies and completions."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, func, literal, select, union_all

from models.columns import constant, is_one_of, now
from models.records import CompletionRecord, JobRecord, WorkerRecord
from models.rows import completion_record, job_record, worker_record
from models.status import Status
from models.tables import completions, jobs, payloads, workers

MAX_COUNTED = 1000  # queued jobs looked at for a place in the queue
# A job whose request and result were deleted by retention is still there, without them.
_JOBS = select(jobs, payloads.c.body, payloads.c.input_expired).outerjoin(payloads, payloads.c.job_id == jobs.c.id)


def this_job(job_id: UUID, tenant: str | None, endpoint: str | None = None) -> ColumnElement[bool]:
    """The row is this job, and the tenant's, and of the endpoint."""
    this = jobs.c.id == job_id
    if tenant is not None:
        this = this & (jobs.c.tenant == tenant)
    return this if endpoint is None else this & (jobs.c.endpoint == endpoint)


def by_ids(connection: Connection, ids: Sequence[UUID], tenant: str | None) -> list[JobRecord]:
    """Read the jobs that exist among `ids`, in the order of `ids`."""
    query = _JOBS.where(is_one_of(connection, jobs.c.id, ids))
    if tenant is not None:
        query = query.where(jobs.c.tenant == tenant)
    found = {record.id: record for record in _records(connection, query)}
    return [found[id] for id in ids if id in found]


def rows_by_ids(connection: Connection, ids: Sequence[UUID], tenant: str | None) -> list[JobRecord]:
    """As by_ids, without bodies and completions: what a poll of many jobs needs costs a narrow row each."""
    query = select(jobs, literal("{}").label("body")).where(is_one_of(connection, jobs.c.id, ids))
    if tenant is not None:
        query = query.where(jobs.c.tenant == tenant)
    found = {row.id: job_record(row, ()) for row in connection.execute(query)}
    return [found[id] for id in ids if id in found]


def of_batch(
    connection: Connection, batch_id: UUID, *, after_line: int, limit: int, status: Status | None = None
) -> list[JobRecord]:
    """Read rows of a batch in the order of its lines, by keyset: a page costs the same wherever it is."""
    rows = select(jobs).where(jobs.c.batch_id == batch_id, jobs.c.line > after_line)
    if status is not None:
        rows = rows.where(jobs.c.status == constant(status))
    page = rows.order_by(jobs.c.line).limit(limit).subquery()  # cut first, so that only a page of bodies is read
    query = select(page, payloads.c.body, payloads.c.input_expired).join(payloads, payloads.c.job_id == page.c.id)
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


def num_announced(connection: Connection, model: str, limit: int) -> int:
    """Count the queued jobs of a model that count as announced, up to a limit."""
    announced = select(jobs.c.model).where(jobs.c.status == constant(Status.QUEUED), jobs.c.model == model)
    some = announced.where(jobs.c.published_at.is_not(None)).limit(limit).subquery()
    return connection.scalars(select(func.count()).select_from(some)).one()


def queue_position(connection: Connection, job_id: UUID) -> int | None:
    """How many queued jobs of its model come before a queued job, by priority, then age. None where it is not queued,
    or where they are too many to count each time somebody looks."""
    mine: Select[Any] = select(jobs.c.model, jobs.c.priority, jobs.c.seq).where(jobs.c.id == job_id)
    job = connection.execute(mine.where(jobs.c.status.concat("") == Status.QUEUED)).one_or_none()
    if job is None:
        return None
    queued = (jobs.c.status == constant(Status.QUEUED)) & (jobs.c.model == job.model)
    announced = select(jobs.c.priority, jobs.c.seq).where(queued, jobs.c.published_at.is_not(None))
    waiting = select(jobs.c.priority, jobs.c.seq).where(queued, jobs.c.published_at.is_(None))
    parts = (  # each walks one index, and not far
        announced.order_by(jobs.c.published_at),
        waiting.where(jobs.c.priority > job.priority),
        waiting.where(jobs.c.priority == job.priority, jobs.c.seq < job.seq),
    )
    counts = connection.execute(union_all(*(_before(part, job) for part in parts))).all()
    return None if any(row.seen > MAX_COUNTED for row in counts) else sum(row.before for row in counts)


def _before(rows: Select[Any], job: Row[Any]) -> Select[int, int]:
    """How many of these rows are seen, of no more than one too many, and how many of them come before the job."""
    some = rows.limit(MAX_COUNTED + 1).subquery()
    is_before = (some.c.priority > job.priority) | ((some.c.priority == job.priority) & (some.c.seq < job.seq))
    return select(func.count().label("seen"), func.count().filter(is_before).label("before")).select_from(some)


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
