"""Changes of status that are not a claim or its outcome: cancel, give back, take from the dead, expire.

Each returns the rows it moved, for their batches to count.
"""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, and_, case, func, literal, or_, select, update

from models.columns import constant, now
from models.rows import DEADLINE_EXCEEDED, Moved
from models.status import Status, starts_of
from models.suspects import Level, next_level
from models.tables import jobs

MAX_SOLO_CRASHES = 2  # confirmed crashes of workers that ran the row alone: it is the row that kills them
WORKER_CRASHED = "worker_crashed"
_MESSAGES = {
    DEADLINE_EXCEEDED.code: DEADLINE_EXCEEDED.message,
    WORKER_CRASHED: "The worker crashed twice while it ran this job alone.",
    "attempts_exhausted": "Too many workers were lost while they ran this job.",
}
_MOVED = (jobs.c.id, jobs.c.batch_id, jobs.c.status)
_IS_QUEUED = jobs.c.status == constant(Status.QUEUED)
_IS_RUNNING = jobs.c.status == constant(Status.IN_PROGRESS)
_IS_LATE = jobs.c.deadline.is_not(None) & (jobs.c.deadline <= now())


def cancel(connection: Connection, condition: ColumnElement[bool]) -> list[Moved]:
    """Cancel unfinished rows: a queued one at once, a running one as soon as its owner sees the request."""
    rows = connection.execute(
        update(jobs)
        .where(condition, jobs.c.status.in_(sorted(starts_of(Status.CANCELLED))))
        .values(
            cancel_requested=True,
            status=case((_IS_QUEUED, Status.CANCELLED), else_=jobs.c.status),
            finished_at=case((_IS_QUEUED, now())),
        )
        .returning(*_MOVED)
    )
    return [Moved(*row) for row in rows]


def expire_queued(connection: Connection, limit: int) -> list[Moved]:
    """Expire queued rows whose deadline passed."""
    late = (
        select(jobs.c.id)
        .where(_IS_QUEUED, jobs.c.deadline.is_not(None), jobs.c.deadline <= now())
        .order_by(jobs.c.deadline)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).cte("late")
    rows = connection.execute(
        update(jobs)
        .where(jobs.c.id == late.c.id)
        .values(
            status=Status.EXPIRED,
            finished_at=now(),
            error_code=DEADLINE_EXCEEDED.code,
            error_message=DEADLINE_EXCEEDED.message,
        )
        .returning(*_MOVED)
    )
    return [Moved(*row) for row in rows]


def release(connection: Connection, condition: ColumnElement[bool]) -> list[Moved]:
    """Give running rows back without blame; those cancelled or late end instead."""
    return _give_back(connection, condition, fatal=[])


def take_from_lost(connection: Connection, owner: UUID, *, max_attempts: int) -> list[Moved]:
    """Give back the rows of a worker whose lease ran out: no blame, but not for ever."""
    return _give_back(connection, jobs.c.owner == owner, fatal=[_exhausted(max_attempts)])


def take_from_crashed(connection: Connection, owner: UUID, *, max_attempts: int) -> list[Moved]:
    """Give back the rows of a worker known to have crashed: each is a suspect, and one that ran alone is more.

    Alone is what was claimed to run alone, in an engine that had run empty, and is all that was held. The last row of
    many to finish is not: what broke the process may have been left by its neighbours.
    """
    held = select(func.count()).select_from(jobs).where(jobs.c.owner == owner, _IS_RUNNING)
    num_held = connection.execute(held).scalar_one()
    ran_alone = and_(literal(num_held) == 1, jobs.c.level == Level.ALONE.value)
    num_solo = case((ran_alone, 1), else_=0)
    too_often = and_(ran_alone, jobs.c.solo_crashes + 1 >= MAX_SOLO_CRASHES)
    return _give_back(
        connection,
        jobs.c.owner == owner,
        fatal=[(too_often, WORKER_CRASHED), _exhausted(max_attempts)],
        blame={
            "suspicion": jobs.c.suspicion + 1,
            "level": next_level(num_held),
            "solo_crashes": jobs.c.solo_crashes + num_solo,
        },
    )


def _exhausted(max_attempts: int) -> tuple[ColumnElement[bool], str]:
    return jobs.c.attempt >= func.coalesce(jobs.c.max_attempts, max_attempts), "attempts_exhausted"


def _give_back(
    connection: Connection,
    condition: ColumnElement[bool],
    *,
    fatal: Sequence[tuple[ColumnElement[bool], str]],
    blame: Mapping[str, ColumnElement[int]] | None = None,
) -> list[Moved]:
    """Running rows become queued and unpublished, or final by the first reason that holds."""
    endings = [
        (jobs.c.cancel_requested, Status.CANCELLED, None),
        (_IS_LATE, Status.EXPIRED, DEADLINE_EXCEEDED.code),
        *((reason, Status.FAILED, code) for reason, code in fatal),
    ]
    ends = or_(*(reason for reason, _, _ in endings))
    rows = connection.execute(
        update(jobs)
        .where(condition, _IS_RUNNING)
        .values(
            status=case(*((reason, status) for reason, status, _ in endings), else_=Status.QUEUED),
            error_code=case(*((reason, code) for reason, _, code in endings)),
            error_message=case(*((reason, _MESSAGES.get(code or "")) for reason, _, code in endings)),
            owner=None,
            published_at=None,
            finished_at=case((ends, now())),
            started_at=case((ends, jobs.c.started_at)),
            **(blame or {}),
        )
        .returning(*_MOVED)
    )
    return [Moved(*row) for row in rows]
