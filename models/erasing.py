"""Taking rows out of the tables so that their bytes are gone too: what deleting and retention have in common.

PostgreSQL's vacuum gives the space back and what comes next overwrites it. SQLite leaves the bytes of a deleted row in
its page until something needs the room; so the transactions that delete, and they alone, have it write zeros there.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from sqlalchemy import Connection, delete, select

from models.columns import is_one_of
from models.tables import completions, idempotency, job_metadata, jobs, payloads

# The payload before the search index: who changes metadata holds the payload, so no pair is added behind our back.
WIDE = (payloads, job_metadata, completions)
_ABOUT_ROW_OF_BATCH = (payloads, completions)  # it has no metadata of its own, and no key


@contextmanager
def overwriting(connection: Connection) -> Iterator[None]:
    """Within the block SQLite writes zeros over what is deleted."""
    if connection.dialect.name != "sqlite":
        yield
        return
    connection.exec_driver_sql("PRAGMA secure_delete = ON")
    try:
        yield
    finally:
        connection.exec_driver_sql("PRAGMA secure_delete = OFF")


def erase_wide_rows(connection: Connection, ids: Sequence[UUID]) -> int:
    """Delete request, result and metadata of jobs; where each stood stays. Returns how many jobs still had them."""
    with overwriting(connection):
        gone = [connection.execute(delete(table).where(is_one_of(connection, table.c.job_id, ids))) for table in WIDE]
    return gone[0].rowcount


def erase_jobs(connection: Connection, ids: Sequence[UUID]) -> int:
    """Delete all that tells of jobs. Their rows must be the transaction's own, or gone already. Returns how many."""
    with overwriting(connection):
        for table in (*WIDE, idempotency):
            connection.execute(delete(table).where(is_one_of(connection, table.c.job_id, ids)))
        return connection.execute(delete(jobs).where(is_one_of(connection, jobs.c.id, ids))).rowcount


def erase_rows_of_batch(connection: Connection, batch_id: UUID, limit: int, *, skip_locked: bool = False) -> int:
    """Delete up to so many rows of a batch, in the order of its lines. Returns how many; with `skip_locked` 0 may mean
    that another process has them in hand."""
    rows = select(jobs.c.id).where(jobs.c.batch_id == batch_id).order_by(jobs.c.line).limit(limit)
    ids = connection.scalars(rows.with_for_update(skip_locked=skip_locked)).all()
    if ids:
        with overwriting(connection):
            for table in _ABOUT_ROW_OF_BATCH:
                connection.execute(delete(table).where(is_one_of(connection, table.c.job_id, ids)))
            connection.execute(delete(jobs).where(is_one_of(connection, jobs.c.id, ids)))
    return len(ids)
