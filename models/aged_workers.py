"""Workers that died and that nobody reaped, as no worker was left to do it: rows that nothing depends on."""

from sqlalchemy import Connection, delete, exists, select

from models.columns import constant, from_now, is_one_of
from models.status import Status
from models.tables import jobs, workers

DEAD_SECONDS = 86_400.0  # after the end of its lease; until then a worker that starts takes its rows back


def forget(connection: Connection) -> int:
    """Delete dead workers that hold no row. Returns how many."""
    holds = exists().where(jobs.c.owner == workers.c.id, jobs.c.status == constant(Status.IN_PROGRESS))
    dead = select(workers.c.id).where(workers.c.lease_until <= from_now(-DEAD_SECONDS), ~holds)
    ids = connection.scalars(dead.order_by(workers.c.id).with_for_update(skip_locked=True)).all()
    connection.execute(delete(workers).where(is_one_of(connection, workers.c.id, ids)))
    return len(ids)
