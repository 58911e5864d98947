"""Suspects: rows held by workers that crashed, one of which may be the cause. They run apart, in ever smaller company.

After a crash a row runs with fewer others than before: many, few, none. So a row that kills its worker is found, and
each row beside it is cleared by finishing. A message claims no suspect: the workers of its model look for them in the
table.
"""

from enum import IntEnum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, case, literal_column, or_, select

from models.columns import constant, now
from models.status import Status
from models.tables import jobs

IS_SUSPECT = jobs.c.suspicion > literal_column("0")  # in the words of their index


class Level(IntEnum):
    """How far a row is suspected: a claim takes rows of one level only."""

    NONE = 0
    MANY = 1  # nobody loses the rows of a large engine one by one for a crash that none of them caused
    FEW = 2
    ALONE = 3


COMPANY = {Level.MANY: 64, Level.FEW: 8, Level.ALONE: 1}  # jobs in the engine at once


class Suspects(NamedTuple):
    """Queued suspects of one level that may run together."""

    level: Level
    ids: list[UUID]


def find(connection: Connection, model: str) -> Suspects | None:
    """Those to run next: the most suspected first, so that one crash after the other is explained; of those that run
    alone the ones that crashed alone least often, so that on a bad device different rows crash before any of them is
    blamed twice."""
    query = (
        select(jobs.c.id, jobs.c.level)
        .where(jobs.c.model == model, jobs.c.status == constant(Status.QUEUED), IS_SUSPECT)
        .where(or_(jobs.c.deadline.is_(None), jobs.c.deadline > now()))
        .order_by(jobs.c.level.desc(), jobs.c.solo_crashes, jobs.c.priority.desc(), jobs.c.seq)
        .limit(max(COMPANY.values()))
    )
    rows = connection.execute(query).all()
    if not rows:
        return None
    level = Level(rows[0].level)
    return Suspects(level, [row.id for row in rows if row.level == level][: COMPANY[level]])


def next_level(num_held: int) -> ColumnElement[int]:
    """The level of a row after a crash of a worker that held so many: in company that is smaller than it had."""
    first = Level.MANY if num_held > COMPANY[Level.MANY] else Level.FEW
    steps = {Level.NONE: first, Level.MANY: Level.FEW}
    return case({was.value: then.value for was, then in steps.items()}, value=jobs.c.level, else_=Level.ALONE.value)
