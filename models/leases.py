"""Workers and their leases: one row for each incarnation, judged by the database's clock alone."""

from uuid import UUID

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from models.columns import from_now, now
from models.records import WorkerRecord
from models.tables import workers


def register(connection: Connection, worker: WorkerRecord, lease_seconds: float) -> None:
    """Give a new incarnation its lease. One whose lease was lost comes back under a new id only."""
    connection.execute(
        insert(workers).values(
            id=worker.id,
            slot=worker.slot,
            hostname=worker.hostname,
            pid=worker.pid,
            model=worker.model,
            state=worker.state,
            rows=worker.rows,
            max_model_len=worker.max_model_len,
            dtype=worker.dtype,
            device=worker.device,
            started_at=now(),
            heartbeat_at=now(),
            lease_until=from_now(lease_seconds),
        )
    )


def renew(connection: Connection, worker_id: UUID, lease_seconds: float, state: str | None) -> str | None:
    """Extend a lease that still lasts; returns the worker's state. None: the lease is lost, and the rows with it."""
    renewed = (
        update(workers)
        .where(workers.c.id == worker_id, workers.c.lease_until > now())
        .values(
            heartbeat_at=now(),
            lease_until=from_now(lease_seconds),
            state=workers.c.state if state is None else state,
        )
    )
    shown: str | None = connection.scalar(renewed.returning(workers.c.state))
    return shown


def set_state(connection: Connection, worker_id: UUID, state: str) -> bool:
    """Set the state of a worker whose lease lasts; False: there is none of this id."""
    change = update(workers).where(workers.c.id == worker_id, workers.c.lease_until > now()).values(state=state)
    return connection.execute(change).rowcount == 1


def lock(connection: Connection, condition: ColumnElement[bool]) -> list[UUID]:
    """Take hold of workers, leaving out those another transaction holds: a claim in flight, or another reaper."""
    rows = select(workers.c.id).where(condition).order_by(workers.c.id).with_for_update(skip_locked=True)
    return list(connection.scalars(rows))


def wait_and_lock(connection: Connection, condition: ColumnElement[bool]) -> list[UUID]:
    """Take hold of workers, waiting for a transaction that holds one."""
    return list(connection.scalars(select(workers.c.id).where(condition).order_by(workers.c.id).with_for_update()))


def forget(connection: Connection, worker_id: UUID) -> None:
    """Remove a worker whose rows were given back."""
    connection.execute(delete(workers).where(workers.c.id == worker_id))
