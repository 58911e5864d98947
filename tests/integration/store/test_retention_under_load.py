"""Deleting by age while others submit, claim, commit and list: nothing that is young or unfinished is touched."""

import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import select

from models.batch_store import BatchStore
from models.blobs import Blobs
from models.claims import Claims
from models.database import Database
from models.ids import uuid7
from models.listing import JobFilter, Page
from models.retention import Keep, Retention
from models.status import FINAL
from models.store import Store
from models.tables import jobs, payloads
from tests.integration.store.aging import DAY, id_of_age, orphans
from tests.integration.store.making import completed, lines, new_batch, new_job, new_jobs, new_worker
from tests.integration.store.test_retention import finished, finished_batch

KEEP = Keep(inputs=7 * DAY, results=30 * DAY, traces=10 * DAY)
ROUNDS, GROUP = 12, 10
NUM_OLD, NUM_TRACES = 300, 200


class Load:
    """Threads that work on one database until they are done; what went wrong in them goes wrong here."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self.failures: list[str] = []

    def start(self, work: Callable[[], object]) -> None:
        def run() -> None:
            try:
                work()
            except BaseException:
                self.failures.append(traceback.format_exc())

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()
        assert self.failures == []


@pytest.fixture
def load() -> Iterator[Load]:
    load = Load()
    yield load
    for thread in load._threads:
        thread.join()


class Tasks:
    """What the threads do."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.folder = database, folder
        self.store, self.batches, self.claims = Store(database), BatchStore(database), Claims(database)
        self.deleted: Counter[str] = Counter()
        self.young: list[UUID] = []
        self.batch_id = new_batch(self.batches)

    def purge(self) -> None:
        """Delete by age, three times over."""
        retention = Retention(self.database, Blobs(str(self.folder)), KEEP)
        for step in chain.from_iterable((*retention.steps(), *retention.input_steps()) for _ in range(3)):
            self.deleted[step.what] += step.number

    def work(self) -> None:
        """Submit jobs, claim and commit them, and look at the list."""
        worker_id = new_worker(self.claims, slot=uuid7().hex)
        for _ in range(ROUNDS):
            group = new_jobs(GROUP)
            self.store.submit(group)
            held = self.claims.claim(worker_id, [job.id for job in group])
            result = self.claims.commit(worker_id, [completed(job) for job in held])
            assert result.applied == {job.id for job in group}
            self.young.extend(job.id for job in group)
            self.store.list_jobs("default", JobFilter(), Page(50))

    def feed(self) -> None:
        """Read a batch in and finish its rows."""
        worker_id = new_worker(self.claims, slot="batch")
        for place in range(ROUNDS):
            rows = lines(GROUP, first=place * GROUP)
            self.batches.append(self.batch_id, rows, num_lines=(place + 1) * GROUP, num_bytes=0)
            held = self.claims.claim(worker_id, [row.id for row in rows])
            self.claims.commit(worker_id, [completed(job) for job in held])
        self.batches.end_intake(self.batch_id)


def test_what_is_young_or_unfinished_is_not_touched(
    store: Store, batches: BatchStore, claims: Claims, database: Database, tmp_path: Path, load: Load
) -> None:
    old = finished(store, claims, days=31, count=NUM_OLD)
    gone = finished(store, claims, days=41, count=NUM_TRACES)
    old_batches = [finished_batch(batches, claims, days=31, count=60) for _ in range(3)]
    waiting = [new_job(id=id_of_age(100)) for _ in range(20)]
    store.submit(waiting)
    tasks = Tasks(database, tmp_path / "files")

    for task in (tasks.purge, tasks.purge, tasks.work, tasks.work, tasks.feed):
        load.start(task)
    load.join()

    total, young = tasks.deleted, tasks.young
    assert total["jobs"] == NUM_TRACES, "each is deleted by one of the two"
    assert NUM_OLD <= total["job results"] <= NUM_OLD + NUM_TRACES, "what the other one deletes whole is none"
    assert total["batch rows"] == 180
    assert store.jobs(gone) == []
    assert [(job.is_expired, job.status in FINAL) for job in store.jobs(old)] == [(True, True)] * NUM_OLD
    assert all(job.completions and job.body for job in store.jobs(young))
    assert len(young) == 2 * ROUNDS * GROUP
    assert {job.status for job in store.jobs([job.id for job in waiting])} == {"queued"}
    assert all(job.body for job in store.jobs([job.id for job in waiting]))
    batch = batches.get(tasks.batch_id)
    assert batch is not None
    assert (batch.status, batch.num_completed) == ("completed", ROUNDS * GROUP)
    assert len(batches.results(tasks.batch_id)) == ROUNDS * GROUP
    assert_counts_stay(batches, old_batches)
    assert orphans(database) == {}
    with database.read() as connection:
        bare = select(jobs.c.id).where(~select(payloads.c.job_id).where(payloads.c.job_id == jobs.c.id).exists())
        assert set(connection.scalars(bare)) == set(old), "who has no request any more is a trace"


def assert_counts_stay(batches: BatchStore, ids: Sequence[UUID]) -> None:
    """Of batches whose rows are gone."""
    for id in ids:
        over = batches.get(id)
        assert over is not None
        assert (over.num_total, over.num_completed, over.results_deleted_at is None) == (60, 59, False)
