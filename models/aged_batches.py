"""Batches whose time is over: first nobody reads their rows any more, then those go, and at last the batch."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Update, delete, false, func, or_, select, update

from models.columns import from_now, is_one_of, now
from models.status import FINAL_BATCH
from models.tables import NUM_FINISHED, batches, files, idempotency, jobs

_IS_OVER = batches.c.status.in_(sorted(FINAL_BATCH)) & (batches.c.num_total == NUM_FINISHED)
_FILES = (batches.c.output_file_id, batches.c.error_file_id)
_HAS_RESULTS = _IS_OVER & batches.c.results_expired_at.is_(None)
_ENDED_AT = func.coalesce(batches.c.completed_at, batches.c.failed_at, batches.c.expired_at, batches.c.cancelled_at)


def expire_old(connection: Connection, keep_seconds: float, limit: int) -> int:
    """Let the results of batches that ended so long ago be over, and their files with them. Returns how many.

    Batches are few beside their rows: this reads those that still have results.
    """
    is_old = _HAS_RESULTS & (from_now(-keep_seconds) >= _ENDED_AT)
    old = select(batches.c.id).where(is_old).order_by(batches.c.id).limit(limit).with_for_update(skip_locked=True)
    ids = connection.scalars(old).all()
    if ids:
        gone = connection.execute(_expiry().where(is_one_of(connection, batches.c.id, ids)).returning(*_FILES))
        file_ids = [id for row in gone for id in row if id is not None]
        connection.execute(delete(files).where(is_one_of(connection, files.c.id, file_ids)))
    return len(ids)


def expire(connection: Connection, ids: Sequence[UUID]) -> None:
    """The results of these batches are over, where they are final."""
    if ids:
        connection.execute(_expiry().where(is_one_of(connection, batches.c.id, sorted(ids)), _HAS_RESULTS))


def count_due(connection: Connection, keep_seconds: float | None) -> tuple[int, int]:
    """How many batches expire_old would take, and how many rows are to be deleted with them and those before them."""
    going = batches.c.results_expired_at.is_not(None) & batches.c.results_deleted_at.is_(None)
    old = false() if keep_seconds is None else _HAS_RESULTS & (from_now(-keep_seconds) >= _ENDED_AT)
    sums = select(func.count().filter(old), func.coalesce(func.sum(batches.c.num_total), 0))
    num_batches, num_rows = connection.execute(sums.where(old | going)).one()
    return num_batches, int(num_rows)


def drop_file(connection: Connection, batch_id: UUID, file_id: UUID) -> None:
    """Its owner deleted a file of the batch. With the last one the results are over: nothing else was in them."""
    for column in _FILES:
        connection.execute(update(batches).where(batches.c.id == batch_id, column == file_id).values({column: None}))
    pairs = connection.execute(select(*_FILES).where(batches.c.id == batch_id)).all()
    file_ids = [id for row in pairs for id in row if id is not None]
    if connection.execute(select(files.c.id).where(is_one_of(connection, files.c.id, file_ids))).first() is None:
        expire(connection, [batch_id])


def has_expired(connection: Connection, file_id: UUID, tenant: str) -> bool:
    """Whether this was the output or error file of a batch of the tenant whose results are over."""
    is_its: ColumnElement[bool] = or_(batches.c.output_file_id == file_id, batches.c.error_file_id == file_id)
    query = select(batches.c.id).where(is_its, batches.c.tenant == tenant, batches.c.results_expired_at.is_not(None))
    return connection.execute(query).first() is not None


def going(connection: Connection) -> Sequence[UUID]:
    """The batches whose results are over and whose rows are still there."""
    query = select(batches.c.id).where(
        batches.c.results_expired_at.is_not(None), batches.c.results_deleted_at.is_(None)
    )
    return connection.scalars(query.order_by(batches.c.results_expired_at)).all()


def note_gone(connection: Connection, batch_id: UUID) -> None:
    """Note that no row of the batch is left, if so: another process may still have some in hand."""
    is_empty = ~select(jobs.c.id).where(jobs.c.batch_id == batch_id, jobs.c.batch_id.is_not(None)).exists()
    connection.execute(update(batches).where(batches.c.id == batch_id, is_empty).values(results_deleted_at=now()))


def forget(connection: Connection, keep_seconds: float, limit: int) -> int:
    """Delete batches whose rows are gone, so long after their results were over. Returns how many."""
    is_old = (batches.c.results_expired_at <= from_now(-keep_seconds)) & batches.c.results_deleted_at.is_not(None)
    old = select(batches.c.id).where(is_old).order_by(batches.c.id).limit(limit).with_for_update(skip_locked=True)
    ids = connection.scalars(old).all()
    if ids:
        connection.execute(delete(batches).where(is_one_of(connection, batches.c.id, ids)))
        keys = is_one_of(connection, idempotency.c.batch_id, ids) & idempotency.c.batch_id.is_not(None)
        connection.execute(delete(idempotency).where(keys))
    return len(ids)


def _expiry() -> Update:
    return update(batches).values(results_expired_at=now())
