"""Rows of files: uploaded bytes, and the streams over a batch's rows that are its output and error files."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, delete, exists, func, insert, or_, select, tuple_, update

from models import aged_batches
from models.columns import from_now, is_one_of, now
from models.errors import FileInUse, NotFound, RequestError
from models.ids import public_id
from models.packing import clean_text
from models.records import FileRecord, NewFile
from models.rows import file_record
from models.status import FINAL_BATCH
from models.tables import batches, files

BATCH_OUTPUT = "batch_output"  # the purpose of output and error files
UNMEASURED = -1
LONG_AGO = datetime.fromtimestamp(0, UTC)

_PLACE = (files.c.created_at, files.c.id)  # in a list
_NOT_EXPIRED = files.c.expires_at.is_(None) | (files.c.expires_at > now())
_IS_LIVE = batches.c.status.not_in(sorted(FINAL_BATCH))
_FEEDS_LIVE_BATCH = exists().where(batches.c.input_file_id == files.c.id, _IS_LIVE)


def create(connection: Connection, new: NewFile) -> FileRecord:
    """Store the row of an upload whose bytes are in place."""
    after = new.expires_after_seconds
    row = connection.execute(
        insert(files)
        .values(
            id=new.id,
            tenant=new.tenant,
            purpose=new.purpose,
            filename=clean_text(new.filename),
            bytes=new.bytes,
            status="processed",
            created_at=now(),
            expires_at=None if after is None else from_now(after),
        )
        .returning(files)
    ).mappings()
    return file_record(row.one())


def find(connection: Connection, file_id: UUID, tenant: str) -> FileRecord | None:
    """Read a file that has not expired; also one that a batch still writes, which has no row yet."""
    query = select(files).where(files.c.id == file_id, files.c.tenant == tenant, _NOT_EXPIRED)
    row = connection.execute(query).mappings().one_or_none()
    return _of_live_batch(connection, file_id, tenant) if row is None else file_record(row)


def lock_input(connection: Connection, file_id: UUID, tenant: str) -> FileRecord | None:
    """Read a file, and keep it from being deleted until the transaction that makes a batch of it ends."""
    query = select(files).where(files.c.id == file_id, files.c.tenant == tenant, _NOT_EXPIRED)
    row = connection.execute(query.with_for_update(read=True)).mappings().one_or_none()
    return None if row is None else file_record(row)


def page(
    connection: Connection, tenant: str, *, purpose: str | None, after: UUID | None, limit: int, newest_first: bool
) -> list[FileRecord]:
    """Read a page of a tenant's files by time of creation. Raises RequestError where `after` is no file of theirs."""
    query = select(files).where(files.c.tenant == tenant, _NOT_EXPIRED)
    if purpose is not None:
        query = query.where(files.c.purpose == purpose)
    if after is not None:
        query = query.where(_beyond(connection, tenant, after, newest_first))
    order = [column.desc() if newest_first else column.asc() for column in _PLACE]
    return [file_record(row) for row in connection.execute(query.order_by(*order).limit(limit)).mappings()]


def remove(connection: Connection, file_id: UUID, tenant: str) -> FileRecord:
    """Delete the row. Raises NotFound, and FileInUse while a batch reads or writes the file."""
    query = select(files).where(files.c.id == file_id, files.c.tenant == tenant, _NOT_EXPIRED).with_for_update()
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        if _of_live_batch(connection, file_id, tenant) is not None:
            raise FileInUse
        raise NotFound
    # After the lock: a batch that was being made of this file is now there to be seen, or waits to find no file.
    if connection.execute(select(batches.c.id).where(batches.c.input_file_id == file_id, _IS_LIVE).limit(1)).first():
        raise FileInUse
    connection.execute(delete(files).where(files.c.id == file_id))
    if row.batch_id is not None:
        aged_batches.drop_file(connection, row.batch_id, file_id)
    return file_record(row)


def expire_old(connection: Connection, keep_seconds: float, limit: int) -> int:
    """Let the time of uploads be over that are so old, unless a live batch reads them. Returns how many."""
    is_old = files.c.batch_id.is_(None) & (files.c.created_at <= from_now(-keep_seconds)) & _NOT_EXPIRED
    old = select(files.c.id).where(is_old, ~_FEEDS_LIVE_BATCH).order_by(files.c.id).limit(limit)
    ids = connection.scalars(old.with_for_update(skip_locked=True)).all()
    if ids:
        connection.execute(update(files).where(is_one_of(connection, files.c.id, ids)).values(expires_at=now()))
    return len(ids)


def count_due(connection: Connection, keep_seconds: float | None) -> int:
    """How many files are over, or uploads so old that expire_old would take them."""
    is_due = files.c.expires_at <= now()
    if keep_seconds is not None:
        is_due = is_due | (files.c.batch_id.is_(None) & (files.c.created_at <= from_now(-keep_seconds)))
    query = select(func.count()).select_from(files).where(is_due, ~_FEEDS_LIVE_BATCH)
    return connection.execute(query).scalar_one()


def expire(connection: Connection, limit: int) -> list[FileRecord]:
    """Take files whose time is over, the oldest first; the input of a live batch waits for its end.

    From now on nobody sees them, and no batch is made of them; with a batch's file its rows are over. To be followed by
    the deletion of their bytes and then by forget; until that they are found again.
    """
    over = select(files.c.id).where(files.c.expires_at <= now(), ~_FEEDS_LIVE_BATCH)
    locked = over.order_by(files.c.expires_at).limit(limit).with_for_update(skip_locked=True)
    ids = connection.scalars(locked).all()
    if not ids:
        return []
    # A batch that is being made of one began before, by a clock that stood still for it: to it too this is the past.
    taken = connection.execute(
        update(files)
        .where(is_one_of(connection, files.c.id, ids), ~_FEEDS_LIVE_BATCH)
        .values(expires_at=LONG_AGO)
        .returning(files)
    )
    records = [file_record(row) for row in taken.mappings()]
    aged_batches.expire(connection, [file.batch_id for file in records if file.batch_id is not None])
    return records


def forget(connection: Connection, ids: Sequence[UUID]) -> None:
    """Delete rows of files whose bytes are gone."""
    connection.execute(delete(files).where(is_one_of(connection, files.c.id, ids)))


def set_measured(connection: Connection, file_id: UUID, num_bytes: int) -> None:
    """Note how long a stream turned out to be."""
    connection.execute(update(files).where(files.c.id == file_id).values(bytes=num_bytes))


def publish_outputs(connection: Connection, batch_id: UUID) -> None:
    """Give a batch that just became final the rows of its output and error files, those that have a line."""
    batch = connection.execute(select(batches).where(batches.c.id == batch_id)).one()
    after = batch.output_expires_after_seconds
    num_errors = batch.num_failed + batch.num_cancelled + batch.num_expired
    found = ((batch.output_file_id, "output", batch.num_completed), (batch.error_file_id, "error", num_errors))
    rows = [
        {"id": id, "filename": output_filename(batch_id, kind)} for id, kind, num_lines in found if id and num_lines
    ]
    if rows:
        shared = {
            "tenant": batch.tenant,
            "purpose": BATCH_OUTPUT,
            "bytes": UNMEASURED,
            "status": "processed",
            "created_at": now(),
            "expires_at": None if after is None else from_now(after),
            "batch_id": batch_id,
        }
        connection.execute(insert(files).values([shared | row for row in rows]))


def output_filename(batch_id: UUID, kind: str) -> str:
    """The name a download gets: `kind` is output or error."""
    return f"{public_id('batch', batch_id)}_{kind}.jsonl"


def _of_live_batch(connection: Connection, file_id: UUID, tenant: str) -> FileRecord | None:
    """The output or error file of a batch that is not final, as far as it is written: status `uploaded`."""
    is_its = or_(batches.c.output_file_id == file_id, batches.c.error_file_id == file_id)
    batch = connection.execute(select(batches).where(is_its, batches.c.tenant == tenant, _IS_LIVE)).one_or_none()
    if batch is None:
        return None
    kind = "output" if batch.output_file_id == file_id else "error"
    return FileRecord(
        id=file_id,
        tenant=tenant,
        purpose=BATCH_OUTPUT,
        filename=output_filename(batch.id, kind),
        bytes=None,
        status="uploaded",
        status_details=None,
        created_at=batch.created_at,
        expires_at=None,
        batch_id=batch.id,
    )


def _beyond(connection: Connection, tenant: str, after: UUID, newest_first: bool) -> ColumnElement[bool]:
    """What comes after a file in the list."""
    query = select(files.c.created_at).where(files.c.id == after, files.c.tenant == tenant)
    created_at = connection.scalars(query).one_or_none()
    if created_at is None:
        raise RequestError(
            "invalid_cursor", "after must be the id of a file of this list that was not deleted", param="after"
        )
    here = tuple_(*_PLACE)
    there = tuple_(created_at, after, types=[column.type for column in _PLACE])
    return here < there if newest_first else here > there
