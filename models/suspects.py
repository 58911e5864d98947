"""Suspects: rows held by workers that crashed, one of which may be the cause. They run apart, in ever smaller company.

After its first crash a row runs with few others, after further ones alone: so a row that kills its worker is found,
and each row beside it is cleared by finishing. A message claims no suspect:
the workers of its model look for them in the table.
"""

from enum import IntEnum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, case, literal_column, or_, select

from models.columns import constant, now
from models.status import Status
from models.tables import jobs

IS_SUSPECT = jobs.c.suspicion > literal_column("0")  # in the words of their index


class Level(IntEnum):
    """How far a row is suspected: a claim takes rows of one level only."""

    NONE = 0
    FEW = 1  # it was held at one crash
    ALONE = 2  # at two or more


COMPANY = {Level.FEW: 8, Level.ALONE: 1}  # jobs in the engine at once


class Suspects(NamedTuple):
    """Queued suspects of one level that may run together."""

    level: Level
    ids: list[UUID]


def find(connection: Connection, model: str) -> Suspects | None:
    """Those to run next: the most suspected first, so that one crash after the other is explained; of those that run
    alone the ones that crashed alone least often, so that on a bad device different rows crash before any of them is
    blamed twice."""
    runs_alone = case((jobs.c.suspicion >= Level.ALONE.value, 1), else_=0)
    query = (
        select(jobs.c.id, jobs.c.suspicion)
        .where(jobs.c.model == model, jobs.c.status == constant(Status.QUEUED), IS_SUSPECT)
        .where(or_(jobs.c.deadline.is_(None), jobs.c.deadline > now()))
        .order_by(runs_alone.desc(), jobs.c.solo_crashes, jobs.c.priority.desc(), jobs.c.seq)
        .limit(max(COMPANY.values()))
    )
    rows = connection.execute(query).all()
    if not rows:
        return None
    level = _level(rows[0].suspicion)
    return Suspects(level, [row.id for row in rows if _level(row.suspicion) is level][: COMPANY[level]])


def _level(suspicion: int) -> Level:
    return Level(min(suspicion, Level.ALONE))
