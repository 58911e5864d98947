"""Which queued jobs are announced by a message. A message lost, repeated or late changes nothing but the wait.

A line is what waits unannounced of one model, owner and priority, in order of arrival. Rows are taken off the heads of
lines, so that a million rows of one owner cost no more than ten. In what order is fair.py's.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, and_, func, or_, select, text, true, update

from models.columns import constant, from_now, is_one_of, now
from models.messages import NUM_LISTS, priorities_of
from models.records import Line, Turn
from models.status import Status
from models.tables import jobs

CHUNK = 20_000  # rows a transaction, of those that are announced again

_IS_QUEUED = jobs.c.status == constant(Status.QUEUED)
_LINE = (jobs.c.model, jobs.c.tenant, jobs.c.priority)
_NAMES = [column.name for column in _LINE]
_MARKED = (jobs.c.id, jobs.c.model, jobs.c.tenant, jobs.c.priority, jobs.c.suspicion, jobs.c.seq)
_MARK = text("""
    WITH picked AS MATERIALIZED (
        SELECT job.id
        FROM unnest(CAST(:tenants AS text[]), CAST(:priorities AS smallint[]), CAST(:waits AS double precision[]))
            AS line (tenant, priority, wait)
        CROSS JOIN LATERAL (
            SELECT id, attempt, created_at FROM jobs
            WHERE status = 'queued' AND published_at IS NULL
                AND model = :model AND jobs.tenant = line.tenant AND jobs.priority = line.priority
            ORDER BY seq LIMIT :share FOR UPDATE SKIP LOCKED
        ) AS job
        WHERE job.attempt >= :min_attempt AND job.created_at <= now() - make_interval(secs => line.wait)
    )
    UPDATE jobs SET published_at = now() FROM picked WHERE jobs.id = picked.id
    RETURNING jobs.id, jobs.model, jobs.tenant, jobs.priority, jobs.suspicion, jobs.seq
""")


def lines(connection: Connection, model: str | None) -> list[Line]:
    """Every line of a model, or of all models, that whose head came first before the others. Some steps in an index for
    each line, however long it is."""
    waiting = _IS_QUEUED & jobs.c.published_at.is_(None) & (true() if model is None else jobs.c.model == model)
    columns = (*_LINE, jobs.c.seq, jobs.c.attempt, jobs.c.created_at)
    heads = select(jobs.c.id).where(waiting).order_by(*_LINE, jobs.c.seq).limit(1)
    first = select(*columns).where(jobs.c.id == heads.scalar_subquery())
    line = first.cte("line", recursive=True)
    head = jobs.alias("head")
    # Spelled out: of the comparison of a row with a row SQLite looks up only the first column, and walks the line.
    is_next = [
        and_(*(jobs.c[name] == line.c[name] for name in _NAMES[:num]), jobs.c[_NAMES[num]] > line.c[_NAMES[num]])
        for num in range(len(_NAMES) - 1, -1 if model is None else 0, -1)
    ]
    next_head = func.coalesce(*(heads.where(condition).correlate(line).scalar_subquery() for condition in is_next))
    following = select(*(head.c[column.name] for column in columns)).join_from(line, head, head.c.id == next_head)
    line = line.union_all(following)
    rows = connection.execute(select(line, now().label("time")).order_by(line.c.seq))
    return [
        Line(row.model, row.tenant, row.priority, (row.time - row.created_at).total_seconds(), row.attempt > 0)
        for row in rows
    ]


def mark(connection: Connection, turns: Sequence[Turn], share: int, *, min_attempt: int = 0) -> Sequence[Row[Any]]:
    """Take up to `share` rows off the heads of these lines of one model, and count them as announced; of these rows,
    only those that waited as long as their turn says and were claimed so often. The heads are the oldest."""
    if connection.dialect.name == "postgresql":
        parameters = {
            "model": turns[0].line.model,
            "tenants": [turn.line.tenant for turn in turns],
            "priorities": [turn.line.priority for turn in turns],
            "waits": [turn.waited_seconds for turn in turns],
            "share": share,
            "min_attempt": min_attempt,
        }
        return connection.execute(_MARK, parameters).all()
    return [row for turn in turns for row in _mark_one(connection, turn, share, min_attempt)]


def _mark_one(connection: Connection, turn: Turn, share: int, min_attempt: int) -> Sequence[Row[Any]]:
    """As mark: nobody else writes meanwhile, and a statement costs no round trip."""
    heads = (
        select(jobs.c.id, jobs.c.attempt, jobs.c.created_at)
        .where(_IS_QUEUED, jobs.c.published_at.is_(None), jobs.c.model == turn.line.model)
        .where(jobs.c.tenant == turn.line.tenant, jobs.c.priority == turn.line.priority)
        .order_by(jobs.c.seq)
        .limit(share)
        .subquery()
    )
    is_due = (heads.c.attempt >= min_attempt) & (heads.c.created_at <= from_now(-turn.waited_seconds))
    marked = update(jobs).where(jobs.c.id.in_(select(heads.c.id).where(is_due))).values(published_at=now())
    return connection.execute(marked.returning(*_MARKED)).all()


def mark_stuck(connection: Connection, model: str, index: int, limit: int, ageing_seconds: float) -> Sequence[Row[Any]]:
    """Announce again up to `limit` rows that were announced `ageing_seconds` ago in a list behind the one of this
    index, and are old enough for this one and not for an earlier one."""
    stuck = (
        select(jobs.c.id)
        .where(_IS_QUEUED, jobs.c.model == model, jobs.c.published_at <= from_now(-ageing_seconds))
        .where(or_(*(_has_aged(behind, index, ageing_seconds) for behind in range(index + 1, NUM_LISTS))))
        .order_by(jobs.c.published_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("stuck")
    )
    return connection.execute(
        update(jobs).where(jobs.c.id == stuck.c.id).values(published_at=now()).returning(*_MARKED)
    ).all()


def _has_aged(behind: int, index: int, ageing_seconds: float) -> ColumnElement[bool]:
    """A row whose own list is `behind` has waited long enough for the list of this index."""
    priorities = priorities_of(behind)
    steps = behind - index
    is_old = jobs.c.created_at <= from_now(-steps * ageing_seconds)
    is_older = jobs.c.created_at <= from_now(-(steps + 1) * ageing_seconds)
    return and_(jobs.c.priority.between(priorities[0], priorities[-1]), is_old, true() if index == 0 else ~is_older)


def unmark(connection: Connection, ids: Sequence[UUID]) -> None:
    """The announcement of these jobs did not get through."""
    connection.execute(
        update(jobs)
        .where(is_one_of(connection, jobs.c.id, ids), jobs.c.status.concat("") == Status.QUEUED)
        .values(published_at=None)
    )


def unmark_queued(connection: Connection, model: str | None, older_than_seconds: float, limit: int) -> int:
    """Announce again what waits and was announced longer ago than this, the oldest first. Returns how many."""
    old = select(jobs.c.id).where(_IS_QUEUED, jobs.c.published_at <= from_now(-older_than_seconds))
    if model is not None:
        old = old.where(jobs.c.model == model)
    oldest = old.order_by(jobs.c.published_at).limit(limit)
    return connection.execute(update(jobs).where(jobs.c.id.in_(oldest)).values(published_at=None)).rowcount
