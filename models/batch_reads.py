"""Reading about batches: lists of them, and what their rows say. Every query has an index to go by."""

from collections import Counter
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, ColumnElement, Connection, Select, and_, cast, func, or_, select

from models.columns import constant
from models.errors import NotFound
from models.packing import clean_text
from models.records import BatchRecord, ErrorCount
from models.rows import batch_record
from models.status import BatchStatus, Status
from models.tables import batches, jobs

MAX_CODES = 5
SAMPLE_ROWS = 1000  # failed rows looked at: enough to see what goes wrong, however many they are
_NO_LIMIT = 1 << 30  # a limit keeps a planner from merging a subquery into the query around it


def page(
    connection: Connection,
    tenant: str,
    *,
    after: UUID | None,
    limit: int,
    status: BatchStatus | None,
    metadata: Mapping[str, str],
) -> list[BatchRecord]:
    """Read a page of a tenant's batches, newest first. Raises NotFound where `after` is no batch of theirs."""
    query = select(batches).where(batches.c.tenant == tenant)
    if status is not None:
        query = query.where(batches.c.status == status)
    for key, value in metadata.items():
        query = query.where(_has_pair(connection, key, value))
    if after is not None:
        query = query.where(_beyond(connection, tenant, after))
    ordered = query.order_by(batches.c.created_at.desc(), batches.c.id.desc()).limit(limit)
    return [batch_record(row) for row in connection.execute(ordered).mappings()]


def first_errors(connection: Connection, batch_id: UUID) -> list[ErrorCount]:
    """Count the failed rows of a batch by code, the most frequent first, over the first thousand of them."""
    failed = (
        select(jobs.c.error_code, jobs.c.error_message)
        .where(jobs.c.batch_id == batch_id, jobs.c.batch_id.is_not(None), jobs.c.status == constant(Status.FAILED))
        .order_by(jobs.c.line)
        .limit(SAMPLE_ROWS)
    )
    rows = connection.execute(failed).all()
    messages = {row.error_code: row.error_message or "" for row in reversed(rows)}  # the first one of each code
    counts = Counter(row.error_code for row in rows).most_common(MAX_CODES)
    return [ErrorCount(code, messages[code], count) for code, count in counts]


def num_running(connection: Connection, batch_id: UUID) -> int:
    """Count rows of a batch that are being decoded, by way of all that are: few, whatever the size of the batch."""
    running = select(jobs.c.batch_id).where(jobs.c.status == constant(Status.IN_PROGRESS), jobs.c.owner.is_not(None))
    fenced = running.limit(_NO_LIMIT).subquery()
    query = select(func.count()).select_from(fenced).where(fenced.c.batch_id == batch_id)
    return int(connection.execute(query).scalar_one())


def _beyond(connection: Connection, tenant: str, after: UUID) -> ColumnElement[bool]:
    """What is older than a batch. Two columns, not a row value: SQLite reads those without the index."""
    query = select(batches.c.created_at).where(batches.c.id == after, batches.c.tenant == tenant)
    created_at = connection.scalars(query).one_or_none()
    if created_at is None:
        raise NotFound
    older = or_(batches.c.created_at < created_at, batches.c.id < after)
    return and_(batches.c.created_at <= created_at, older)


def _has_pair(connection: Connection, key: str, value: str) -> ColumnElement[bool]:
    """Whether the metadata holds this pair, as it was stored: clean."""
    if connection.dialect.name == "postgresql":
        pairs = func.json_each_text(cast(batches.c.metadata, JSON))
    else:
        pairs = func.json_each(batches.c.metadata)
    pair = pairs.table_valued("key", "value", name="pair")
    found: Select[Any] = select(pair.c.key).where(pair.c.key == clean_text(key), pair.c.value == clean_text(value))
    return found.exists()
