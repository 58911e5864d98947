"""What the tables hold at one moment, in the words of the plain model, so that the two can be compared."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, delete, false, func, select

from models.columns import now
from models.database import Database
from models.status import BatchStatus, Status
from models.suspects import Level
from models.tables import batches, completions, idempotency, jobs, metadata, payloads, workers


@dataclass
class Row:
    """A job. `is_late`: its deadline passed. `texts`: of its stored completions."""

    batch: UUID | None = None
    status: Status = Status.QUEUED
    attempt: int = 0
    owner: UUID | None = None
    suspicion: int = 0
    level: Level = Level.NONE
    solo_crashes: int = 0
    cancel_requested: bool = False
    is_late: bool = False
    error: str | None = None
    texts: tuple[str, ...] = ()

    @property
    def is_waiting(self) -> bool:
        """Whether it may be claimed."""
        return self.status is Status.QUEUED and not self.is_late


@dataclass
class Batch:
    """A batch: where it stands and what it counted."""

    status: BatchStatus = BatchStatus.VALIDATING
    num_total: int = 0
    num_completed: int = 0
    num_failed: int = 0
    num_cancelled: int = 0
    num_expired: int = 0
    output_tokens: int = 0
    is_late: bool = False
    is_read: bool = False


@dataclass
class Seen:
    """All rows. `workers`: whether each one's lease lasts. `num_orphans`: payloads and completions without a job."""

    rows: dict[UUID, Row]
    batches: dict[UUID, Batch]
    workers: dict[UUID, bool]
    keys: dict[str, UUID]
    finished: dict[UUID, object]
    num_orphans: int = 0


def look(database: Database) -> Seen:
    """Read everything in one transaction."""
    with database.read() as connection:
        texts: dict[UUID, list[str]] = {}
        for job_id, text in connection.execute(select(completions.c.job_id, completions.c.text)):
            texts.setdefault(job_id, []).append(text)
        rows, finished = _rows(connection, texts)
        bodies = connection.scalars(select(func.count()).select_from(payloads)).one()
        alive = connection.execute(select(workers.c.id, workers.c.lease_until > now()))
        keys = connection.execute(select(idempotency.c.key, idempotency.c.job_id))
        return Seen(
            rows,
            _batches(connection),
            {id: bool(lasts) for id, lasts in alive},
            {key: job_id for key, job_id in keys},
            finished,
            num_orphans=len(texts.keys() - rows.keys()) + abs(bodies - len(rows)),
        )


def clear(database: Database) -> None:
    """Empty every table: the next example begins with nothing."""
    with database.transaction() as connection:
        for table in (jobs, payloads, completions, batches, workers, idempotency, metadata.tables["files"]):
            connection.execute(delete(table))


def _rows(connection: Connection, texts: dict[UUID, list[str]]) -> tuple[dict[UUID, Row], dict[UUID, object]]:
    is_late = func.coalesce(jobs.c.deadline <= now(), false()).label("is_late")
    rows, finished = {}, {}
    for row in connection.execute(select(jobs, is_late)):
        rows[row.id] = Row(
            batch=row.batch_id,
            status=Status(row.status),
            **{name: getattr(row, name) for name in ("attempt", "owner", "suspicion", "solo_crashes")},
            level=Level(row.level),
            cancel_requested=row.cancel_requested,
            is_late=bool(row.is_late),
            error=row.error_code,
            texts=tuple(texts.get(row.id, ())),
        )
        finished[row.id] = row.finished_at
    return rows, finished


def _batches(connection: Connection) -> dict[UUID, Batch]:
    names = ("num_total", "num_completed", "num_failed", "num_cancelled", "num_expired", "output_tokens")
    is_late = func.coalesce(batches.c.expires_at <= now(), false()).label("is_late")
    return {
        row.id: Batch(
            BatchStatus(row.status),
            **{name: getattr(row, name) for name in names},
            is_late=bool(row.is_late),
            is_read=row.input_read,
        )
        for row in connection.execute(select(batches, is_late))
    }
