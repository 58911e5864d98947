"""Making stored things old: ids of another time, and times moved back."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import Column, Table, func, select, update

from models.database import Database
from models.ids import uuid7
from models.tables import batches, completions, files, idempotency, job_metadata, jobs, metadata, payloads, workers

DAY = 86_400.0
TIMES = {
    jobs: ("created_at", "started_at", "finished_at"),
    batches: (
        *("created_at", "completed_at", "failed_at", "expired_at", "cancelled_at"),
        *("results_expired_at", "results_deleted_at"),
    ),
    files: ("created_at", "expires_at"),
    idempotency: ("created_at",),
    workers: ("heartbeat_at", "lease_until"),
}


def id_of_age(days: float) -> UUID:
    """An id as it was made so many days ago."""
    return UUID(int=uuid7().int - (int(days * DAY * 1000) << 80))


def grow_old(database: Database, table: Table, days: float, *these: UUID) -> None:
    """Let what happened to rows have happened so many days ago; to all rows of the table, or to these."""
    then = datetime.now(UTC) - timedelta(days=days)
    with database.transaction() as connection:
        for name in TIMES[table]:
            column: Column[datetime] = table.c[name]
            change = update(table).where(column.is_not(None)).values({name: then})
            connection.execute(change.where(table.c.id.in_(these)) if these else change)


def num_rows(database: Database) -> dict[str, int]:
    """How many rows each table has; tables without any are left out."""
    with database.read() as connection:
        counts = {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in metadata.sorted_tables
        }
    return {name: number for name, number in counts.items() if number}


def orphans(database: Database) -> dict[str, int]:
    """How many rows of each table tell of a job that is not there."""
    found = {}
    with database.read() as connection:
        for table in (payloads, completions, job_metadata):
            lost = ~select(jobs.c.id).where(jobs.c.id == table.c.job_id).exists()
            found[table.name] = connection.execute(select(func.count()).select_from(table).where(lost)).scalar_one()
        lost = jobs.c.batch_id.is_not(None) & ~select(batches.c.id).where(batches.c.id == jobs.c.batch_id).exists()
        found["jobs"] = connection.execute(select(func.count()).select_from(jobs).where(lost)).scalar_one()
    return {name: number for name, number in found.items() if number}
