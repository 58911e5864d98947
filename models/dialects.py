"""Which form of the hot statements a connection needs."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import Connection, Row

from models import postgresql, sqlite
from models.records import NewJob, Outcome
from models.rows import Moved
from models.suspects import Level


class HotStatements(Protocol):
    """What postgresql.py and sqlite.py both offer."""

    def insert_jobs(self, connection: Connection, new: Sequence[NewJob], /) -> list[Moved]:
        """Store jobs with their bodies. Returns the rows that were not there yet."""

    def keep_keys(
        self, connection: Connection, keys: Sequence[Mapping[str, Any]], /, *, max_age_seconds: float
    ) -> set[tuple[str, str]]:
        """Write rows of `idempotency`, replacing older ones. Returns tenant and key of those written."""

    def claim(
        self, connection: Connection, worker_id: UUID, ids: Sequence[UUID], level: Level, /
    ) -> Sequence[Row[Any]]:
        """Make queued rows of this level of suspicion among `ids` the worker's own, if its lease lasts."""

    def finish(self, connection: Connection, worker_id: UUID, outcomes: Sequence[Outcome], /) -> list[Moved]:
        """Write outcomes of attempts the worker still holds. Returns those rows, with the status as written."""


def of(connection: Connection) -> HotStatements:
    """The statements for this connection's database."""
    return postgresql if connection.dialect.name == "postgresql" else sqlite
