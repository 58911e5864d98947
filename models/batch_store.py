"""Batches as producers and readers see them, each method one transaction (a cancel: one a chunk of rows).

Raises as the store does. Repeating any method after one of these is harmless.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from models import batch_reads, batches, cancelling, intake, reads
from models.batch_deleting import delete_batch
from models.database import Database
from models.errors import IdempotencyKeyReused
from models.idempotency import Keyed, Once, remember
from models.records import DEFAULT_TENANT, BatchMark, BatchRecord, ErrorCount, JobRecord, NewBatch, NewJob
from models.status import BatchStatus, Status


class BatchStore:
    """Batches and their rows. `tenant=None` reads any tenant's."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def create(self, batch: NewBatch) -> None:
        """Store a batch, `validating` until its input is checked. Where an input file is named that is not there
        raises NotFound, and RequestError `invalid_file` where it is there for something else."""
        self.database.write(lambda connection: batches.create(connection, batch))

    def create_once(self, batch: NewBatch, once: Once) -> tuple[UUID, bool]:
        """Store a batch unless it is remembered as one stored before: (its id, whether it is a replay). Raises as
        create does, and IdempotencyKeyReused."""

        def work(connection: Connection) -> tuple[UUID, bool]:
            [first] = remember(connection, [Keyed(batch, once)])
            if isinstance(first, IdempotencyKeyReused):
                raise first
            if first is not None:
                return first, True
            batches.create(connection, batch)
            return batch.id, False

        return self.database.write(work)

    def get(self, batch_id: UUID, tenant: str | None = None) -> BatchRecord | None:
        """Read a batch."""
        with self.database.read() as connection:
            return batches.find(connection, batch_id, tenant)

    def marks(self, ids: Sequence[UUID]) -> dict[UUID, BatchMark]:
        """Read how far batches are."""
        with self.database.read() as connection:
            return batches.marks(connection, ids)

    def list(
        self,
        tenant: str,
        *,
        after: UUID | None = None,
        limit: int,
        status: BatchStatus | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Sequence[BatchRecord]:
        """Read a page of batches, newest first; those with all pairs of `metadata`. Raises NotFound where `after`
        names none."""
        with self.database.read() as connection:
            return batch_reads.page(
                connection, tenant, after=after, limit=limit, status=status, metadata=metadata or {}
            )

    def first_errors(self, batch_id: UUID) -> Sequence[ErrorCount]:
        """Count failed rows by code: the five most frequent codes of the first thousand of them."""
        with self.database.read() as connection:
            return batch_reads.first_errors(connection, batch_id)

    def num_running(self, batch_id: UUID) -> int:
        """Count rows that are being decoded."""
        with self.database.read() as connection:
            return batch_reads.num_running(connection, batch_id)

    def find(self, fingerprint: str, tenant: str = DEFAULT_TENANT) -> BatchRecord | None:
        """Read the latest batch with this fingerprint."""
        with self.database.read() as connection:
            return batches.find_latest(connection, fingerprint, tenant)

    def append(
        self,
        batch_id: UUID,
        new: Sequence[NewJob],
        *,
        num_lines: int,
        num_bytes: int,
        owner: UUID | None = None,
    ) -> None:
        """Store a chunk of a batch's lines with its progress: lines and bytes read so far, this chunk included.

        Lines that are stored already are left as they are. A custom_id used before in the batch makes its line
        refused. Raises BatchClosed once the batch takes no more lines, IntakeLost where not `owner` reads its input.
        """

        def work(connection: Connection) -> None:
            intake.append(connection, batch_id, new, num_lines=num_lines, num_bytes=num_bytes, owner=owner)

        self.database.write(work)

    def end_intake(self, batch_id: UUID, owner: UUID | None = None) -> None:
        """The input of a batch is read to its end. Nothing happens where not `owner` reads it."""
        self.database.write(lambda connection: intake.end(connection, batch_id, owner))

    def fail(self, batch_id: UUID, errors: Sequence[Mapping[str, Any]], owner: UUID | None = None) -> None:
        """The input of a batch is bad as a whole: its rows are cancelled. `errors` as OpenAI lists them. Nothing
        happens where not `owner` reads the input."""
        if self.database.write(lambda connection: intake.fail(connection, batch_id, errors, owner)):
            cancelling.cancel_rows(self.database, batch_id)

    def take_intake(self, worker_id: UUID) -> BatchRecord | None:
        """Take a batch whose input file nobody else alive reads, for this worker to read; it must be reading none.
        None: there is none, or the worker has no lease."""
        with self.database.read() as connection:  # mostly there is nothing, and looking costs less than a write
            if not intake.is_waiting(connection):
                return None
        return self.database.write(lambda connection: intake.take(connection, worker_id))

    def give_back_intake(self, batch_id: UUID, owner: UUID) -> None:
        """Let another worker go on where this one stopped reading."""
        self.database.write(lambda connection: intake.give_back(connection, batch_id, owner))

    def note_validated(self, batch_id: UUID, owner: UUID, num_lines: int) -> None:
        """Tell how many lines are checked. Raises BatchClosed, IntakeLost."""
        self.database.write(lambda connection: intake.note_validated(connection, batch_id, owner, num_lines))

    def validated(self, batch_id: UUID, owner: UUID, num_requests: int) -> BatchRecord:
        """The input file is sound and holds so many requests. Raises BatchClosed, IntakeLost."""
        return self.database.write(lambda connection: intake.validated(connection, batch_id, owner, num_requests))

    def cancel(self, batch_id: UUID, tenant: str | None = None) -> BatchRecord | None:
        """Cancel the unfinished rows of a batch; one that is final stays as it is. None: no such batch."""
        if self.begin_cancel(batch_id, tenant):
            self.cancel_rows(batch_id)
        return self.get(batch_id, tenant)

    def begin_cancel(self, batch_id: UUID, tenant: str | None = None) -> bool:
        """Take no more lines and count as being cancelled; False for a batch that is final or not there."""
        return self.database.write(lambda connection: cancelling.begin(connection, batch_id, tenant))

    def cancel_rows(self, batch_id: UUID) -> int:
        """Cancel the rows of a batch whose cancelling has begun. Returns how many. Cut short, a keeper goes on."""
        return cancelling.cancel_rows(self.database, batch_id)

    def results(
        self, batch_id: UUID, *, after_line: int = -1, limit: int = 1000, status: Status | None = None
    ) -> Sequence[JobRecord]:
        """Read the next rows of a batch after a line, in line order, of one status or whatever theirs."""
        with self.database.read() as connection:
            return reads.of_batch(connection, batch_id, after_line=after_line, limit=limit, status=status)

    def delete(self, batch_id: UUID, tenant: str | None = None) -> None:
        """Delete a final batch with its rows and results, not its input file. Raises NotFound, BatchNotFinal.

        Cut short, it is still there, and calling again goes on.
        """
        delete_batch(self.database, batch_id, tenant)
