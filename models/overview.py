"""What waits, who works, how the batches stand: numbers about many rows, for operators and for owners.

Counting reads every row that is counted: who asks often keeps the answer for a while.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select

from models import reads, usage
from models.columns import constant, now
from models.database import Database
from models.dead_letters import count_waiting
from models.records import WorkerRecord
from models.status import Status
from models.tables import batches, jobs


@dataclass(frozen=True, slots=True)
class Waiting:
    """Queued jobs of one tenant, model and priority. `oldest` is when the first of them was accepted."""

    tenant: str
    model: str
    priority: int
    num_jobs: int
    oldest: datetime


@dataclass(frozen=True, slots=True)
class Load:
    """What there is to do and who does it, of every tenant, at one time by the database's clock."""

    time: datetime
    waiting: list[Waiting]
    workers: list[WorkerRecord]
    batches_by_status: dict[str, int]
    dead_letters: dict[str, int]  # that nobody replayed, by code

    def age_seconds(self, waiting: Collection[Waiting]) -> float | None:
        """How long the first accepted of these has waited; None where nothing waits."""
        if not waiting:
            return None
        return max((self.time - min(group.oldest for group in waiting)).total_seconds(), 0.0)


class Overview:
    """Reads over many rows, each in one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def load(self) -> Load:
        """Read the load. Its cost goes by the jobs that are queued, not by those that ever were."""
        with self.database.read() as connection:
            by_status = connection.execute(select(batches.c.status, func.count()).group_by(batches.c.status))
            return Load(
                time=connection.scalars(select(now())).one(),
                waiting=_waiting(connection),
                workers=reads.live_workers(connection),
                batches_by_status={status: num for status, num in by_status},
                dead_letters=count_waiting(connection),
            )

    def usage(self, tenant: str, start: datetime, end: datetime) -> usage.Usage:
        """Sum up what a tenant's jobs accepted in [start, end) came to. Raises RequestError where they are too many."""
        with self.database.read() as connection:
            return usage.of_tenant(connection, tenant, start, end)


def _waiting(connection: Connection) -> list[Waiting]:
    """Count the queued: the announced and the others, as each have an index and both at once have none."""
    kind = (jobs.c.tenant, jobs.c.model, jobs.c.priority)
    numbers = select(*kind, func.count(), func.min(jobs.c.created_at)).group_by(*kind)
    parts = (jobs.c.published_at.is_(None), jobs.c.published_at.is_not(None))
    return [
        Waiting(*row)
        for part in parts
        for row in connection.execute(numbers.where(jobs.c.status == constant(Status.QUEUED), part))
    ]
