"""Batches: their counts, which follow the rows in the same transaction, and their way to a final status.

Lock order of every transaction that touches both: rows of jobs first, then their batches by id.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from uuid import UUID

from sqlalchemy import Connection, case, insert, select, update

from models import files
from models.columns import from_now, is_one_of, now
from models.errors import NotFound, RequestError
from models.ids import uuid7
from models.packing import clean_optional, clean_text, dump_json
from models.records import BatchMark, BatchRecord, NewBatch
from models.rows import Moved, batch_record
from models.status import FINAL, BatchStatus, Status
from models.tables import NUM_FINISHED, batches

INPUT_PURPOSE = "batch"  # of files that can be a batch's input
_ZEROS = dict.fromkeys(
    (
        *("num_total", "num_completed", "num_failed", "num_cancelled", "num_expired"),
        *("prompt_tokens", "output_tokens", "num_lines_read", "num_bytes_read"),
    ),
    0,
)


def create(connection: Connection, batch: NewBatch) -> None:
    """Store a batch whose input is still to be read. Raises NotFound or RequestError where its file is none to read."""
    if batch.input_file_id is not None:
        _check_input(connection, batch.input_file_id, batch.tenant)
    window = batch.completion_window_seconds
    connection.execute(
        insert(batches).values(
            id=batch.id,
            tenant=batch.tenant,
            endpoint=batch.endpoint,
            model=clean_optional(batch.model),
            status=BatchStatus.VALIDATING,
            fingerprint=batch.fingerprint,
            input_file_id=batch.input_file_id,
            completion_window_seconds=window,
            priority=batch.priority,
            metadata=dump_json({clean_text(key): clean_text(value) for key, value in batch.metadata.items()}),
            errors="[]",
            created_at=now(),
            expires_at=None if window is None else from_now(window),
            output_file_id=uuid7(),
            error_file_id=uuid7(),
            output_expires_after_seconds=batch.output_expires_after_seconds,
            completion_window=batch.completion_window,
            max_attempts=batch.max_attempts,
            input_read=False,
            **_ZEROS,
        )
    )


def _check_input(connection: Connection, file_id: UUID, tenant: str) -> None:
    """The file stays until this transaction ends, and then the batch keeps it."""
    file = files.lock_input(connection, file_id, tenant)
    if file is None:
        raise NotFound
    if file.purpose != INPUT_PURPOSE:
        raise RequestError("invalid_file", "the input file was not uploaded for batches", param="input_file_id")


def find(connection: Connection, batch_id: UUID, tenant: str | None = None) -> BatchRecord | None:
    """Read a batch; None where there is none of this tenant."""
    query = select(batches).where(batches.c.id == batch_id)
    if tenant is not None:
        query = query.where(batches.c.tenant == tenant)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else batch_record(row)


def marks(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, BatchMark]:
    """Read how far batches are; ids that name none are absent."""
    columns = [batches.c[field.name] for field in fields(BatchMark)]
    rows = connection.execute(select(batches.c.id, *columns).where(is_one_of(connection, batches.c.id, ids)))
    return {id: BatchMark(BatchStatus(status), *numbers) for id, status, *numbers in rows}


def find_latest(connection: Connection, fingerprint: str, tenant: str) -> BatchRecord | None:
    """Read the newest batch with this fingerprint whose results are not over."""
    same = (batches.c.tenant == tenant) & (batches.c.fingerprint == fingerprint)
    query = select(batches).where(same, batches.c.results_expired_at.is_(None))
    newest = query.order_by(batches.c.created_at.desc(), batches.c.id.desc()).limit(1)
    row = connection.execute(newest).mappings().one_or_none()
    return None if row is None else batch_record(row)


def lock(connection: Connection, batch_id: UUID) -> BatchRecord | None:
    """Read a batch and keep others from writing it until this transaction ends."""
    row = connection.execute(select(batches).where(batches.c.id == batch_id).with_for_update())
    found = row.mappings().one_or_none()
    return None if found is None else batch_record(found)


def count(
    connection: Connection,
    moved: Iterable[Moved],
    tokens: Mapping[UUID, tuple[int, int]] | None = None,
) -> None:
    """Count rows that just reached a final status, and complete each batch whose last row that was.

    Called by whatever makes a row final, in the same transaction. `tokens`: (prompt, output) of completed jobs.
    """
    ended: defaultdict[UUID, list[Moved]] = defaultdict(list)
    for row in moved:
        if row.batch_id is not None and row.status in FINAL:
            ended[row.batch_id].append(row)
    for batch_id in sorted(ended):
        _add(connection, batch_id, _increments(ended[batch_id], tokens or {}))


def _increments(rows: Sequence[Moved], tokens: Mapping[UUID, tuple[int, int]]) -> dict[str, int]:
    by_status = Counter(row.status for row in rows)
    spent = [tokens.get(row.id, (0, 0)) for row in rows if row.status == Status.COMPLETED]
    return {
        **{f"num_{status}": by_status[status] for status in FINAL},
        "prompt_tokens": sum(prompt for prompt, _ in spent),
        "output_tokens": sum(output for _, output in spent),
    }


def _add(connection: Connection, batch_id: UUID, increments: Mapping[str, int]) -> None:
    row = connection.execute(
        update(batches)
        .where(batches.c.id == batch_id)
        .values({batches.c[name]: batches.c[name] + number for name, number in increments.items()})
        .returning((batches.c.num_total - NUM_FINISHED).label("num_unfinished"))
    ).one()
    if row.num_unfinished == 0:
        settle(connection, batch_id)


def settle(connection: Connection, batch_id: UUID) -> None:
    """Give a batch without unfinished rows its final status. One whose input is still being read stays as it is, unless
    it was cancelled and takes no more lines."""
    has_window = batches.c.expires_at.is_not(None)
    is_late = (batches.c.num_expired > 0) & has_window & (batches.c.expires_at <= now())
    is_cancelled = batches.c.status == BatchStatus.CANCELLING
    settled = connection.execute(
        update(batches)
        .where(batches.c.id == batch_id, batches.c.num_total == NUM_FINISHED)
        .where(is_cancelled | (batches.c.status == BatchStatus.IN_PROGRESS) & batches.c.input_read)
        .values(
            status=case(
                (is_cancelled, BatchStatus.CANCELLED),
                (is_late, BatchStatus.EXPIRED),
                else_=BatchStatus.COMPLETED,
            ),
            finalizing_at=now(),  # results are read from the rows: there is no file to write, this state has no length
            cancelled_at=case((is_cancelled, now())),
            expired_at=case((~is_cancelled & is_late, now())),
            completed_at=case((~is_cancelled & ~is_late, now())),
        )
    )
    if settled.rowcount == 1:
        files.publish_outputs(connection, batch_id)
