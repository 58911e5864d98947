"""Batches as producers and readers see them, each method one transaction (a cancel: one a chunk of rows).

Raises as the store does. Repeating any method after one of these is harmless.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from models import batches, cancelling, intake, reads
from models.database import Database
from models.records import DEFAULT_TENANT, BatchMark, BatchRecord, JobRecord, NewBatch, NewJob
from models.status import Status


class BatchStore:
    """Batches and their rows. `tenant=None` reads any tenant's."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def create(self, batch: NewBatch) -> None:
        """Store a batch, `validating` until its input is read."""
        self.database.write(lambda connection: batches.create(connection, batch))

    def get(self, batch_id: UUID, tenant: str | None = None) -> BatchRecord | None:
        """Read a batch."""
        with self.database.read() as connection:
            return batches.find(connection, batch_id, tenant)

    def marks(self, ids: Sequence[UUID]) -> dict[UUID, BatchMark]:
        """Read how far batches are."""
        with self.database.read() as connection:
            return batches.marks(connection, ids)

    def find(self, fingerprint: str, tenant: str = DEFAULT_TENANT) -> BatchRecord | None:
        """Read the latest batch with this fingerprint."""
        with self.database.read() as connection:
            return batches.find_latest(connection, fingerprint, tenant)

    def append(self, batch_id: UUID, new: Sequence[NewJob], *, num_lines: int, num_bytes: int) -> None:
        """Store a chunk of a batch's lines with its progress: lines and bytes read so far, this chunk included.

        Lines that are stored already are left as they are. A custom_id used before in the batch makes its line
        refused. Raises BatchClosed once the batch takes no more lines.
        """
        self.database.write(
            lambda connection: intake.append(connection, batch_id, new, num_lines=num_lines, num_bytes=num_bytes)
        )

    def end_intake(self, batch_id: UUID) -> None:
        """The input of a batch is read to its end."""
        self.database.write(lambda connection: intake.end(connection, batch_id))

    def fail(self, batch_id: UUID, errors: Sequence[Mapping[str, Any]]) -> None:
        """The input of a batch is bad as a whole: its rows are cancelled. `errors` as OpenAI lists them."""
        if self.database.write(lambda connection: intake.fail(connection, batch_id, errors)):
            cancelling.cancel_rows(self.database, batch_id)

    def cancel(self, batch_id: UUID, tenant: str | None = None) -> BatchRecord | None:
        """Cancel the unfinished rows of a batch; one that is final stays as it is. None: no such batch."""
        if self.database.write(lambda connection: cancelling.begin(connection, batch_id, tenant)):
            cancelling.cancel_rows(self.database, batch_id)
        return self.get(batch_id, tenant)

    def results(
        self, batch_id: UUID, *, after_line: int = -1, limit: int = 1000, status: Status | None = None
    ) -> list[JobRecord]:
        """Read the next rows of a batch after a line, in line order, of one status or whatever theirs."""
        with self.database.read() as connection:
            return reads.of_batch(connection, batch_id, after_line=after_line, limit=limit, status=status)
