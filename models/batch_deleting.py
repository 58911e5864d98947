"""Deleting a batch: its rows chunk by chunk, the batch itself last, so that one cut short can be repeated."""

from uuid import UUID

from sqlalchemy import Connection, delete

from models import batches as batch_rows
from models.database import Database
from models.erasing import erase_rows_of_batch
from models.errors import BatchNotFinal, NotFound
from models.status import FINAL_BATCH
from models.tables import batches, files, idempotency

CHUNK = 2000  # rows a transaction


def delete_batch(database: Database, batch_id: UUID, tenant: str | None) -> None:
    """Delete a batch with its rows and its output files. Raises NotFound, BatchNotFinal."""
    database.write(lambda connection: _begin(connection, batch_id, tenant))
    while database.write(lambda connection: erase_rows_of_batch(connection, batch_id, CHUNK)):
        pass
    database.write(lambda connection: _end(connection, batch_id))


def _begin(connection: Connection, batch_id: UUID, tenant: str | None) -> None:
    """The files go first, so that no download begins of what is going."""
    batch = batch_rows.lock(connection, batch_id)
    if batch is None or tenant not in (None, batch.tenant):
        raise NotFound
    if batch.status not in FINAL_BATCH or batch.num_unfinished:
        raise BatchNotFinal
    ids = [id for id in (batch.output_file_id, batch.error_file_id) if id is not None]
    connection.execute(delete(files).where(files.c.id.in_(ids), files.c.batch_id == batch_id))


def _end(connection: Connection, batch_id: UUID) -> None:
    """With the batch goes the key that its request was sent with: sent again, it makes a new one."""
    connection.execute(delete(batches).where(batches.c.id == batch_id))
    this = (idempotency.c.batch_id == batch_id) & idempotency.c.batch_id.is_not(None)
    connection.execute(delete(idempotency).where(this))
