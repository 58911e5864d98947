"""What is old goes, all of it, and nothing else: each age, each kind of thing, on both databases."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text, update

from models import intake
from models.batch_store import BatchStore
from models.blobs import Blobs
from models.claims import Claims
from models.database import Database
from models.file_store import FileStore
from models.idempotency import by_key
from models.ids import uuid7
from models.records import DEFAULT_TENANT, JobChange, NewJob
from models.retention import Keep, Retention
from models.status import Status
from models.store import Store
from models.submitting import Submission
from models.tables import batches as batch_table
from models.tables import files as file_table
from models.tables import idempotency, jobs, workers
from tests.integration.store.aging import DAY, grow_old, id_of_age, num_rows, orphans
from tests.integration.store.making import (
    completed,
    failed,
    lines,
    new_batch,
    new_file,
    new_job,
    new_worker,
    submit_and_claim,
    whole_batch,
)

MONTH = Keep(results=30 * DAY)
SECRET = "the-words-of-a-prompt-that-must-go"
BODY: dict[str, Any] = {"prompt": SECRET, "metadata": {"k": "v"}, "n": 1, "logprobs": 2}


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(str(tmp_path / "files"))


@pytest.fixture
def files(database: Database) -> FileStore:
    return FileStore(database)


def clear(database: Database, blobs: Blobs, keep: Keep = MONTH) -> Counter[str]:
    """One whole round; how many of which things went."""
    gone: Counter[str] = Counter()
    retention = Retention(database, blobs, keep)
    for steps in (retention.steps(), retention.input_steps()):
        for step in steps:
            gone[step.what] += step.number
    return +gone


def finished(store: Store, claims: Claims, *, days: float, count: int = 1, **changes: Any) -> list[UUID]:  # noqa: ANN401
    """Completed jobs that ended so many days ago."""
    new = [new_job(**{"id": id_of_age(days), "body": BODY, **changes}) for _ in range(count)]
    store.submit_group([Submission(job, by_key(job.id.hex, "/v1/completions", b"")) for job in new])
    _end(claims, new)
    grow_old(store.database, jobs, days, *(job.id for job in new))
    return [job.id for job in new]


def finished_batch(batches: BatchStore, claims: Claims, *, days: float, count: int = 3, **changes: Any) -> UUID:  # noqa: ANN401
    """A completed batch whose last row failed, and that ended so many days ago."""
    rows = [new_line(line, days) for line in range(count)]
    batch_id = whole_batch(batches, rows, **changes)
    worker_id = new_worker(claims, slot=batch_id.hex)
    held = claims.claim(worker_id, [row.id for row in rows])
    claims.commit(worker_id, [*map(completed, held[1:]), failed(held[0])])
    claims.deregister(worker_id)
    grow_old(batches.database, batch_table, days, batch_id)
    grow_old(batches.database, jobs, days, *(row.id for row in rows))
    return batch_id


def new_line(line: int, days: float) -> NewJob:
    return lines(1, first=line, id=id_of_age(days), body=BODY)[0]


def _end(claims: Claims, new: Sequence[NewJob]) -> None:
    worker_id = new_worker(claims, slot=uuid7().hex)
    held = claims.claim(worker_id, [job.id for job in new])
    assert len(held) == len(new)
    claims.commit(worker_id, [completed(job) for job in held])
    claims.deregister(worker_id)


def test_nothing_is_deleted_unless_somebody_says_so(
    store: Store, batches: BatchStore, claims: Claims, database: Database, blobs: Blobs
) -> None:
    finished(store, claims, days=4000)
    finished_batch(batches, claims, days=4000)
    before = num_rows(database)

    assert clear(database, blobs, Keep()) == {}
    assert num_rows(database) == before


def test_old_result_goes_with_all_that_belongs_to_it(
    store: Store, claims: Claims, database: Database, blobs: Blobs
) -> None:
    [old] = finished(store, claims, days=31)
    [young] = finished(store, claims, days=29)
    before = store.job(young)

    assert clear(database, blobs) == {"job results": 1}

    assert store.job(young) == before
    trace = store.job(old)
    assert trace is not None
    assert (trace.is_expired, trace.status, trace.completions, trace.body) == (True, Status.COMPLETED, (), {})
    assert {name: number for name, number in num_rows(database).items() if name != "idempotency"} == {
        "jobs": 2,
        "payloads": 1,
        "completions": 1,
        "job_metadata": 1,
    }
    assert clear(database, blobs) == {}


def test_trace_of_a_job_goes_after_a_time_of_its_own(
    store: Store, claims: Claims, database: Database, blobs: Blobs
) -> None:
    [job_id] = finished(store, claims, days=59)
    assert clear(database, blobs) == {"job results": 1}
    [gone] = finished(store, claims, days=61)

    assert clear(database, blobs)["jobs"] == 1

    assert store.job(gone) is None
    assert store.job(job_id) is not None
    assert num_rows(database) == {"jobs": 1, "idempotency": 1}, "all that told of the job is gone"


def test_trace_of_a_job_may_be_deleted_by_its_owner(
    store: Store, claims: Claims, database: Database, blobs: Blobs
) -> None:
    [job_id] = finished(store, claims, days=31)
    clear(database, blobs)

    store.delete(job_id)

    assert num_rows(database) == {}


def test_ids_that_clients_chose_have_no_time_and_go_by_their_rows(
    store: Store, claims: Claims, database: Database, blobs: Blobs
) -> None:
    """Celery's own task ids are random."""
    old = [id for _ in range(20) for id in finished(store, claims, days=31, id=uuid4())]
    young = [id for _ in range(20) for id in finished(store, claims, days=1, id=uuid4())]

    assert clear(database, blobs) == {"job results": 20}

    assert [job.is_expired for job in store.jobs(old + young)] == [True] * 20 + [False] * 20


def test_what_is_not_final_stays_however_old(
    store: Store, batches: BatchStore, claims: Claims, database: Database, blobs: Blobs
) -> None:
    queued, held = new_job(id=id_of_age(900)), new_job(id=id_of_age(900))
    store.submit([queued, held])
    worker_id = new_worker(claims)
    claims.claim(worker_id, [held.id])
    rows = [new_line(line, 900) for line in range(3)]
    batch_id = whole_batch(batches, rows)
    claims.commit(worker_id, [completed(job) for job in claims.claim(worker_id, [rows[0].id])])
    for table in (jobs, batch_table):
        grow_old(database, table, 900)
    before = num_rows(database)

    assert clear(database, blobs, Keep(results=DAY, traces=0)) == {}

    assert num_rows(database) == before
    assert [row.status for row in batches.results(batch_id)] == ["completed", "queued", "queued"]


def test_job_that_ended_lately_stays_however_old_its_id_is(
    store: Store, claims: Claims, database: Database, blobs: Blobs
) -> None:
    [job_id] = finished(store, claims, days=1, id=id_of_age(100))

    assert clear(database, blobs) == {}
    assert store.jobs([job_id])[0].completions


def test_batch_goes_as_a_whole_and_its_counts_stay(
    store: Store, batches: BatchStore, claims: Claims, database: Database, blobs: Blobs, files: FileStore
) -> None:
    batch_id, young = finished_batch(batches, claims, days=31), finished_batch(batches, claims, days=29)
    before = batches.get(batch_id)
    assert before is not None
    assert before.output_file_id is not None

    assert clear(database, blobs) == {"batches": 1, "batch rows": 3}

    after = batches.get(batch_id)
    assert after is not None
    assert after.results_expired_at is not None
    assert after.results_deleted_at is not None
    assert (after.status, after.num_completed, after.num_failed) == (before.status, 2, 1)
    assert batches.results(batch_id) == []
    assert files.get(before.output_file_id, before.tenant) is None
    assert files.has_expired(before.output_file_id, before.tenant)
    assert not files.has_expired(before.output_file_id, "other")
    assert len(batches.results(young)) == 3
    assert num_rows(database) == {"batches": 2, "files": 2, "jobs": 3, "payloads": 3, "completions": 2}
    assert orphans(database) == {}
    assert clear(database, blobs) == {}


def test_row_of_a_batch_stays_until_its_batch_goes(
    batches: BatchStore, claims: Claims, database: Database, blobs: Blobs
) -> None:
    """Half an output file would look like a whole one."""
    batch_id = finished_batch(batches, claims, days=35)
    grow_old(database, batch_table, 29, batch_id)

    assert clear(database, blobs) == {}
    assert len(batches.results(batch_id)) == 3


def test_failed_batch_stays_until_its_last_row_is_cancelled(
    batches: BatchStore, database: Database, blobs: Blobs
) -> None:
    batch_id = new_batch(batches)
    batches.append(batch_id, [new_line(line, 35) for line in range(3)], num_lines=3, num_bytes=0)
    assert database.write(lambda connection: intake.fail(connection, batch_id, [], None))
    grow_old(database, batch_table, 35)

    assert clear(database, blobs) == {}
    batches.cancel_rows(batch_id)

    assert clear(database, blobs) == {"batches": 1, "batch rows": 3}


def test_trace_of_a_batch_goes_at_last(batches: BatchStore, claims: Claims, database: Database, blobs: Blobs) -> None:
    batch_id = finished_batch(batches, claims, days=31)
    clear(database, blobs)
    grow_old(database, batch_table, 29, batch_id)
    assert clear(database, blobs) == {}
    grow_old(database, batch_table, 31, batch_id)

    assert clear(database, blobs) == {"traces of batches": 1}

    assert num_rows(database) == {}


def test_batch_with_an_expiry_of_its_own_needs_no_setting(
    batches: BatchStore, claims: Claims, database: Database, blobs: Blobs
) -> None:
    finished_batch(batches, claims, days=0, output_expires_after_seconds=3600)
    kept = finished_batch(batches, claims, days=0)
    assert clear(database, blobs, Keep()) == {}
    with database.transaction() as connection:
        connection.execute(update(file_table).where(file_table.c.expires_at.is_not(None)).values(expires_at=_past()))

    assert clear(database, blobs, Keep()) == {"files": 2, "batch rows": 3}

    assert num_rows(database) == {"batches": 2, "files": 2, "jobs": 3, "payloads": 3, "completions": 2}
    assert len(batches.results(kept)) == 3


def test_rows_go_with_the_last_of_a_batchs_files(
    batches: BatchStore, claims: Claims, database: Database, blobs: Blobs, files: FileStore
) -> None:
    """Who deletes what a batch made means the bytes, not the name."""
    batch = batches.get(finished_batch(batches, claims, days=0))
    assert batch is not None
    assert batch.output_file_id is not None
    assert batch.error_file_id is not None
    files.delete(batch.output_file_id, batch.tenant)
    assert clear(database, blobs, Keep()) == {}

    files.delete(batch.error_file_id, batch.tenant)

    assert clear(database, blobs, Keep()) == {"batch rows": 3}
    assert num_rows(database) == {"batches": 1}


def test_many_rows_go_in_small_steps(batches: BatchStore, claims: Claims, database: Database, blobs: Blobs) -> None:
    finished_batch(batches, claims, days=31, count=1100)

    sizes = [step.number for step in Retention(database, blobs, MONTH).steps() if step.what == "batch rows"]

    assert sum(sizes) == 1100
    assert max(sizes) == {"postgresql": 1000, "sqlite": 200}[database.dialect]


def test_inputs_go_before_results_and_leave_those_as_they_are(
    store: Store, claims: Claims, database: Database, blobs: Blobs
) -> None:
    [job_id] = finished(store, claims, days=8)
    [young] = finished(store, claims, days=6)
    before = store.job(job_id)
    assert before is not None
    week = Keep(inputs=7 * DAY)

    assert clear(database, blobs, week) == {"job inputs": 1}
    assert clear(database, blobs, week) == {}

    after = store.job(job_id)
    assert after is not None
    assert after.input_expired
    assert after.completions == before.completions
    assert after.body == {name: value for name, value in BODY.items() if name != "prompt"}
    assert store.jobs([young])[0].body == BODY


def test_metadata_may_still_change_once_the_input_is_gone(
    store: Store, claims: Claims, database: Database, blobs: Blobs
) -> None:
    [job_id] = finished(store, claims, days=8)
    clear(database, blobs, Keep(inputs=DAY))

    store.change(job_id, JobChange(metadata={"new": "pair"}))

    [job] = store.jobs([job_id])
    assert (job.body["metadata"], job.input_expired) == ({"new": "pair"}, True)


def test_old_uploads_go_with_their_bytes_unless_a_live_batch_reads_them(
    batches: BatchStore, database: Database, blobs: Blobs, files: FileStore
) -> None:
    old, in_use, young = (upload(files, blobs) for _ in range(3))
    grow_old(database, file_table, 8, old, in_use)
    batch_id = whole_batch(batches, lines(1), input_file_id=in_use)
    week = Keep(inputs=7 * DAY)

    assert clear(database, blobs, week) == {"files": 1}
    assert [is_stored(blobs, id) for id in (old, in_use, young)] == [False, True, True]
    assert [files.get(id, DEFAULT_TENANT) is None for id in (old, in_use, young)] == [True, False, False]

    batches.cancel(batch_id)
    assert clear(database, blobs, week) == {"files": 1}
    assert [is_stored(blobs, id) for id in (in_use, young)] == [False, True]


def test_bytes_of_a_file_go_before_its_row(database: Database, blobs: Blobs, files: FileStore) -> None:
    """Storage that fails leaves the row, and the next round goes on."""
    file_id = upload(files, blobs)
    grow_old(database, file_table, 1, file_id)
    with database.transaction() as connection:
        connection.execute(update(file_table).values(expires_at=_past()))
    steps = Retention(database, Unreachable(), Keep()).steps()

    with pytest.raises(ConnectionError):
        next(steps)

    assert num_rows(database) == {"files": 1}
    assert clear(database, blobs, Keep()) == {"files": 1}
    assert not is_stored(blobs, file_id)


def test_keys_go_by_an_age_of_their_own(store: Store, claims: Claims, database: Database, blobs: Blobs) -> None:
    finished(store, claims, days=1)
    finished(store, claims, days=1)
    with database.transaction() as connection:
        oldest = select(func.min(idempotency.c.key)).scalar_subquery()
        connection.execute(update(idempotency).where(idempotency.c.key == oldest).values(created_at=_past(days=2)))

    assert clear(database, blobs, Keep()) == {"idempotency keys": 1}
    assert num_rows(database)["idempotency"] == 1


def test_dead_worker_goes_unless_rows_wait_to_be_taken_back(
    store: Store, claims: Claims, database: Database, blobs: Blobs
) -> None:
    dead, holding, alive = (new_worker(claims, slot=name) for name in ("dead", "holding", "alive"))
    submit_and_claim(store, claims, holding)
    grow_old(database, workers, 2, dead, holding)

    assert clear(database, blobs, Keep()) == {"workers": 1}

    with database.read() as connection:
        assert set(connection.scalars(select(workers.c.id))) == {holding, alive}
    assert claims.reap().num_jobs == 1


def test_bytes_are_gone_from_the_file_of_sqlite(
    sqlite_url: str, tmp_path: Path, blobs: Blobs, request: pytest.FixtureRequest
) -> None:
    """Deleted rows stay in their pages unless zeros are written over them."""
    database = Database(sqlite_url)
    store, batches, claims = Store(database), BatchStore(database), Claims(database)
    [owned] = finished(store, claims, days=1, body={"prompt": SECRET * 400})
    [input_only] = finished(store, claims, days=8, body=BODY)
    finished(store, claims, days=31, count=40, body={"prompt": SECRET * 400})
    finished(store, claims, days=31, count=40, body=BODY)
    batch_id = finished_batch(batches, claims, days=1)
    finished_batch(batches, claims, days=31, count=50)

    assert stored_bytes(database, tmp_path).count(SECRET.encode()) > 1000
    clear(database, blobs, Keep(inputs=7 * DAY, results=30 * DAY))
    store.delete(owned)
    batches.delete(batch_id)

    assert store.job(input_only) is not None
    assert SECRET.encode() not in stored_bytes(database, tmp_path)
    database.dispose()


def stored_bytes(database: Database, folder: Path) -> bytes:
    """The database's files, after what is in its log is written back."""
    with database.engine.connect() as connection:
        connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
    return b"".join(path.read_bytes() for path in folder.glob("batchmill.db*"))


def upload(files: FileStore, blobs: Blobs) -> UUID:
    file_id = new_file(files.database)
    with blobs.writer(file_id) as writer:
        writer.write(b"x")
    return file_id


def is_stored(blobs: Blobs, id: UUID) -> bool:
    return Path(blobs._path(id)).exists()


class Unreachable(Blobs):
    """A storage that has gone away."""

    def __init__(self) -> None:
        super().__init__("memory://")

    def delete(self, id: UUID) -> None:
        raise ConnectionError(id)


def _past(days: float = 0.01) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)
