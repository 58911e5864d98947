"""The store of files: each method one transaction. Bytes are in models/blobs.py; this knows their rows alone."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection

from models import aged_batches, files
from models.database import Database
from models.records import FileRecord, NewFile


class FileStore:
    """Rows of files, each seen by its tenant alone. Raises as Store does where retrying helps."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def create(self, new: NewFile) -> FileRecord:
        """Store the row of an upload; its bytes must be in place, as from now on it is visible."""
        return self.database.write(lambda connection: files.create(connection, new))

    def get(self, file_id: UUID, tenant: str) -> FileRecord | None:
        """Read a file; an expired one is not there, a live batch's output is, with status `uploaded`."""
        with self.database.read() as connection:
            return files.find(connection, file_id, tenant)

    def has_expired(self, file_id: UUID, tenant: str) -> bool:
        """Whether it was a batch's output or error file, and was deleted when its time was over."""
        with self.database.read() as connection:
            return aged_batches.has_expired(connection, file_id, tenant)

    def list(
        self,
        tenant: str,
        *,
        purpose: str | None = None,
        after: UUID | None = None,
        limit: int,
        newest_first: bool = True,
    ) -> Sequence[FileRecord]:
        """Read a page of files. Raises RequestError where `after` names none."""
        with self.database.read() as connection:
            return files.page(connection, tenant, purpose=purpose, after=after, limit=limit, newest_first=newest_first)

    def delete(self, file_id: UUID, tenant: str) -> FileRecord:
        """Delete the row; the caller deletes the blob of one without `batch_id` then. Raises NotFound, FileInUse."""

        def work(connection: Connection) -> FileRecord:
            return files.remove(connection, file_id, tenant)

        return self.database.write(work)

    def expire(self, limit: int) -> Sequence[FileRecord]:
        """Take files whose time is over: nobody sees them any more. The caller deletes the blobs of those without
        `batch_id`, and then says forget; until that they are found again."""
        return self.database.write(lambda connection: files.expire(connection, limit))

    def forget(self, ids: Sequence[UUID]) -> None:
        """Delete rows of files whose blobs are gone."""
        self.database.write(lambda connection: files.forget(connection, ids))

    def set_measured(self, file_id: UUID, num_bytes: int) -> None:
        """Note how long a stream over rows is."""
        self.database.write(lambda connection: files.set_measured(connection, file_id, num_bytes))
