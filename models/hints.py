"""Which queued jobs are announced by a message. A message lost, repeated or late changes nothing but the wait."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, select, update

from models.columns import constant, from_now, is_one_of, now
from models.records import Hint
from models.status import Status
from models.tables import jobs

_IS_QUEUED = jobs.c.status == constant(Status.QUEUED)


def take(connection: Connection, limit: int, model: str | None) -> list[Hint]:
    """Mark unannounced queued jobs as announced and return them, highest priority first, then by age."""
    waiting = select(jobs.c.id).where(_IS_QUEUED, jobs.c.published_at.is_(None))
    if model is not None:
        waiting = waiting.where(jobs.c.model == model)
    ordered = waiting.order_by(jobs.c.priority.desc(), jobs.c.seq).limit(limit).with_for_update(skip_locked=True)
    first = ordered.cte("first")
    rows = connection.execute(
        update(jobs)
        .where(jobs.c.id == first.c.id)
        .values(published_at=now())
        .returning(jobs.c.id, jobs.c.model, jobs.c.priority, jobs.c.suspicion, jobs.c.seq)
    )
    taken = sorted(rows, key=lambda row: (-row.priority, row.seq))
    return [Hint(row.id, row.model, row.priority, row.suspicion) for row in taken]


def unmark(connection: Connection, ids: Sequence[UUID]) -> None:
    """The announcement of these jobs did not get through."""
    connection.execute(
        update(jobs)
        .where(is_one_of(connection, jobs.c.id, ids), jobs.c.status.concat("") == Status.QUEUED)
        .values(published_at=None)
    )


def unmark_queued(
    connection: Connection, model: str | None, older_than_seconds: float, limit: int | None = None
) -> int:
    """Announce again what waits and was announced longer ago than this, all or the oldest. Returns how many."""
    old = select(jobs.c.id).where(_IS_QUEUED, jobs.c.published_at <= from_now(-older_than_seconds))
    if model is not None:
        old = old.where(jobs.c.model == model)
    if limit is not None:
        old = old.order_by(jobs.c.published_at).limit(limit)
    return connection.execute(update(jobs).where(jobs.c.id.in_(old)).values(published_at=None)).rowcount
