"""The store: what producers and readers do with jobs, each method one transaction. Batches: batch_store.py.

Raises DatabaseUnavailable, DatabaseBusy, Overloaded or StorageFull where retrying helps. Repeating any method after
one of these is harmless.
"""

import time
from collections.abc import Sequence
from functools import partial
from uuid import UUID

from sqlalchemy import Connection

from models import batches, changing, deleting, fair, hints, leases, listing, reads, submitting, transitions
from models.database import Database
from models.errors import IdempotencyKeyReused, NotFound
from models.listing import JobFilter, Page
from models.records import Hint, JobChange, JobRecord, NewJob, WorkerRecord
from models.status import DRAINING, Status
from models.submitting import Submission, Submitted
from models.tables import jobs


class Store:
    """Jobs, payloads and completions. `tenant=None` reads any tenant's rows."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def submit(self, new: Sequence[NewJob]) -> None:
        """Store jobs, all or none; committed when this returns. An id that is stored already is left as it is."""
        assert all(job.batch_id is None for job in new), "rows of a batch come by BatchStore.append, which counts them"
        self.database.write(lambda connection: submitting.store_jobs(connection, new))

    def submit_group(self, group: Sequence[Submission]) -> list[Submitted | IdempotencyKeyReused]:
        """Store what is new of a group, all or none; for each in turn where it is, or why it alone is refused."""
        return self.database.write(lambda connection: submitting.store_group(connection, group))

    def submit_all(self, group: Sequence[Submission]) -> list[Submitted]:
        """As submit_group, but all or none. Raises IdempotencyKeyReused."""
        return self.database.write(lambda connection: submitting.store_all(connection, group))

    def job(self, job_id: UUID, tenant: str | None = None) -> JobRecord | None:
        """Read a job with its request body and completions."""
        found = self.jobs([job_id], tenant)
        return found[0] if found else None

    def jobs(self, ids: Sequence[UUID], tenant: str | None = None) -> list[JobRecord]:
        """Read jobs in the order of `ids`; those that are not there are left out."""
        with self.database.read() as connection:
            return reads.by_ids(connection, ids, tenant)

    def statuses(self, ids: Sequence[UUID]) -> dict[UUID, Status]:
        """Read where jobs stand."""
        with self.database.read() as connection:
            return reads.statuses(connection, ids)

    def rows(self, ids: Sequence[UUID], tenant: str | None = None) -> list[JobRecord]:
        """As `jobs`, but without their request bodies and completions."""
        with self.database.read() as connection:
            return reads.rows_by_ids(connection, ids, tenant)

    def list_jobs(self, tenant: str, wanted: JobFilter, page: Page) -> tuple[list[JobRecord], bool]:
        """A page of the tenant's jobs, and whether another one follows. Raises RequestError `invalid_cursor`."""
        with self.database.read() as connection:
            ids = listing.page_ids(connection, tenant, wanted, page)
            return reads.by_ids(connection, ids[: page.limit], tenant), len(ids) > page.limit

    def queue_position(self, job_id: UUID) -> int | None:
        """How many queued jobs come before a queued job; None where it is not queued, or they are many."""
        with self.database.read() as connection:
            return reads.queue_position(connection, job_id)

    def change(self, job_id: UUID, wanted: JobChange, tenant: str | None = None) -> None:
        """Change a job. Raises NotFound; JobNotQueued where what is wanted needs a job that waits."""
        self.database.write(lambda connection: changing.change(connection, job_id, tenant, wanted))

    def delete(self, job_id: UUID, tenant: str | None = None, endpoint: str | None = None) -> None:
        """Delete a final job with all that is stored of it. Raises NotFound, JobNotFinal, JobOfBatch."""
        self.database.write(lambda connection: deleting.delete_job(connection, job_id, tenant, endpoint))

    def cancel(self, job_id: UUID, tenant: str | None = None) -> Status | None:
        """Cancel a job: its status after the call, in_progress while its owner has still to stop. None: no such job."""

        def work(connection: Connection) -> Status | None:
            this = jobs.c.id == job_id
            moved = transitions.cancel(connection, this if tenant is None else this & (jobs.c.tenant == tenant))
            batches.count(connection, moved)
            if moved:
                return Status(moved[0].status)
            found = reads.by_ids(connection, [job_id], tenant)
            return found[0].status if found else None

        return self.database.write(work)

    def take_unpublished(
        self, limit: int, *, model: str | None = None, ageing_seconds: float = fair.AGEING_SECONDS
    ) -> list[Hint]:
        """Take queued jobs no message announced yet, the next first; from now on they count as announced."""
        return self.database.write(lambda connection: fair.take(connection, limit, model, ageing_seconds))

    def take_for_lists(
        self, model: str, rooms: Sequence[fair.Room], *, ageing_seconds: float = fair.AGEING_SECONDS
    ) -> list[list[Hint]]:
        """Take what is to be announced now in each of the model's lists, given the room there; before these what goes
        out whatever they hold. From now on it counts as announced."""
        return self.database.write(lambda connection: fair.take_for_lists(connection, model, rooms, ageing_seconds))

    def unannounced_models(self) -> set[str]:
        """The models of queued jobs no message announced yet."""
        with self.database.read() as connection:
            return {line.model for line in hints.lines(connection, None)}

    def unpublish(self, ids: Sequence[UUID]) -> None:
        """The message that announced these jobs did not get through."""
        self.database.write(lambda connection: hints.unmark(connection, ids))

    def unpublish_queued(
        self, *, model: str | None = None, older_than_seconds: float = 0, limit: int | None = None
    ) -> int:
        """Count queued jobs announced longer ago than this as unannounced, all or the oldest. Returns how many. Many
        are done in several transactions."""
        num_done, since = 0, time.monotonic()
        while limit is None or num_done < limit:
            size = hints.CHUNK if limit is None else min(hints.CHUNK, limit - num_done)
            age = older_than_seconds + time.monotonic() - since  # not what was announced since we began
            num = self.database.write(partial(hints.unmark_queued, model=model, older_than_seconds=age, limit=size))
            num_done += num
            if num < size:
                break
        return num_done

    def has_more_announced(self, model: str, than: int) -> bool:
        """Whether more than so many queued jobs of a model count as announced."""
        with self.database.read() as connection:
            return reads.num_announced(connection, model, than + 1) > than

    def queue_depth(self) -> dict[str, int]:
        """Count queued jobs by model."""
        with self.database.read() as connection:
            return reads.queue_depth(connection)

    def drain_worker(self, worker_id: UUID) -> WorkerRecord:
        """Tell a live worker to finish what it holds and to end; its next heartbeat hears it. Raises NotFound."""

        def work(connection: Connection) -> WorkerRecord:
            if not leases.set_state(connection, worker_id, DRAINING):
                raise NotFound
            return next(worker for worker in reads.live_workers(connection) if worker.id == worker_id)

        return self.database.write(work)

    def workers(self) -> list[WorkerRecord]:
        """Read the workers whose lease lasts."""
        with self.database.read() as connection:
            return reads.live_workers(connection)
