"""Cancelling a whole batch: marked first, then its rows by chunks, so that nobody waits long and a crash is resumed."""

from uuid import UUID

from sqlalchemy import Connection, select, update

from models import batches as batch_rows
from models import transitions
from models.columns import is_one_of, now
from models.database import Database
from models.status import FINAL_BATCH, BatchStatus, Status, starts_of
from models.tables import NUM_FINISHED, batches, jobs

CHUNK = 5000  # rows a transaction


def begin(connection: Connection, batch_id: UUID, tenant: str | None) -> bool:
    """Take no more lines and start to cancel; True also for a batch whose cancelling was begun before."""
    batch = batch_rows.lock(connection, batch_id)
    if batch is None or batch.status in FINAL_BATCH or tenant not in (None, batch.tenant):
        return False
    connection.execute(
        update(batches)
        .where(batches.c.id == batch_id, batches.c.status != BatchStatus.CANCELLING)
        .values(status=BatchStatus.CANCELLING, cancelling_at=now())
    )
    batch_rows.settle(connection, batch_id)
    return True


def cancel_rows(database: Database, batch_id: UUID) -> int:
    """Cancel every unfinished row of a batch that takes no more lines. Returns how many."""
    num_rows, line = 0, -1
    while True:
        num, line = database.write(lambda connection, after=line: _cancel_chunk(connection, batch_id, after))  # type: ignore[misc]
        if num == 0:
            return num_rows
        num_rows += num


def resume(database: Database) -> int:
    """Go on where a process died in the middle of cancelling a batch. Returns how many rows that were."""
    unfinished = batches.c.num_total > NUM_FINISHED
    closed = batches.c.status.in_((BatchStatus.CANCELLING, BatchStatus.FAILED))
    with database.read() as connection:
        ids = connection.scalars(select(batches.c.id).where(closed, unfinished)).all()
    return sum(cancel_rows(database, batch_id) for batch_id in ids)


def _cancel_chunk(connection: Connection, batch_id: UUID, after_line: int) -> tuple[int, int]:
    """Cancel the next rows after a line: how many they are, and the last one's line."""
    rows = connection.execute(
        select(jobs.c.id, jobs.c.line)
        .where(jobs.c.batch_id == batch_id, jobs.c.line > after_line)
        .where(jobs.c.status.in_(sorted(starts_of(Status.CANCELLED))), ~jobs.c.cancel_requested)
        .order_by(jobs.c.line)
        .limit(CHUNK)
        .with_for_update()
    ).all()
    if not rows:
        return 0, after_line
    ids = [row.id for row in rows]
    batch_rows.count(connection, transitions.cancel(connection, is_one_of(connection, jobs.c.id, ids)))
    return len(rows), rows[-1].line
