"""PostgreSQL partitioned by week as docs/operations.md says: the store works as before, and an old week is dropped.

The tests of the main paths are run on such a database too: test_partitioned_store.py.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.batch_store import BatchStore
from models.blobs import Blobs
from models.claims import Claims
from models.database import Database
from models.listing import JobFilter, Page
from models.records import NewJob
from models.retention import Retention
from models.store import Store
from models.tables import batches as batch_table
from models.tables import jobs
from tests.integration.store.aging import grow_old, id_of_age, num_rows, orphans
from tests.integration.store.conftest import PARTITIONS
from tests.integration.store.making import REFUSAL, lines, new_batch, new_job, whole_batch
from tests.integration.store.test_retention import MONTH, clear, finished, finished_batch


@pytest.fixture
def database_url(partitioned_url: str) -> str:
    """This module's databases are partitioned."""
    return partitioned_url


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(str(tmp_path / "files"))


def week_of(days: float) -> datetime:
    """The Monday before the day so many days ago."""
    day = (datetime.now(UTC) - timedelta(days=days)).replace(hour=0, minute=0, second=0, microsecond=0)
    return day - timedelta(days=day.weekday())


def call(database: Database, function: str, start: datetime) -> None:
    with database.transaction() as connection:
        connection.execute(text(f"SELECT {function}(:start)"), {"start": start})


def rows_in(database: Database, partition: str) -> int:
    with database.read() as connection:
        return int(connection.execute(text(f'SELECT count(*) FROM "{partition}"')).scalar_one())


def test_job_goes_its_whole_way(store: Store, claims: Claims) -> None:
    [job_id] = finished(store, claims, days=0)
    [random_id] = finished(store, claims, days=0, id=uuid4())

    listed, has_more = store.list_jobs("default", JobFilter(), Page(10))

    assert ({job.id for job in listed}, has_more) == ({job_id, random_id}, False)
    assert all(job.completions and job.status == "completed" for job in listed)
    store.submit([new_job(id=job_id, body={"prompt": "another"})])
    assert store.jobs([job_id])[0].body["prompt"] != "another"


def test_rows_of_a_time_lie_in_its_partitions(store: Store, database: Database) -> None:
    call(database, "batchmill_add_week", week_of(30))
    store.submit([new_job(), new_job(id=id_of_age(30)), new_job(id=uuid4())])

    assert rows_in(database, f"jobs_{week_of(0):%Y%m%d}") == 1
    assert rows_in(database, f"payloads_{week_of(30):%Y%m%d}") == 1
    assert rows_in(database, "jobs_default") == 1


def test_old_week_is_dropped_with_all_its_rows(
    store: Store, batches: BatchStore, claims: Claims, database: Database
) -> None:
    call(database, "batchmill_add_week", week_of(30))
    finished(store, claims, days=30)
    [young] = finished(store, claims, days=0)
    old = batches.get(finished_batch(batches, claims, days=30))
    assert old is not None
    assert old.output_file_id is not None

    call(database, "batchmill_drop_week", week_of(30))

    left = num_rows(database)
    assert {name: left[name] for name in ("jobs", "payloads", "completions")} == dict.fromkeys(
        ("jobs", "payloads", "completions"), 1
    )
    assert orphans(database) == {}
    assert store.jobs([young])[0].completions
    after = batches.get(old.id)
    assert after is not None
    assert after.results_expired_at is not None
    assert (after.num_completed, after.num_failed) == (2, 1)
    assert "files" not in left


def test_batch_over_two_weeks_goes_as_a_whole(
    batches: BatchStore, claims: Claims, database: Database, blobs: Blobs
) -> None:
    call(database, "batchmill_add_week", week_of(30))
    batch_id = finished_batch(batches, claims, days=30)
    extra = new_line_of(batches, claims, days=23)

    call(database, "batchmill_drop_week", week_of(30))
    assert num_rows(database)["jobs"] == 1
    with database.transaction() as connection:
        connection.execute(jobs.update().where(jobs.c.id == extra).values(batch_id=batch_id, line=99))
    clear(database, blobs)

    assert "jobs" not in num_rows(database)
    batch = batches.get(batch_id)
    assert batch is not None
    assert batch.results_deleted_at is not None


def new_line_of(batches: BatchStore, claims: Claims, *, days: float) -> UUID:
    """The id of a finished row of another week."""
    [id] = finished(Store(batches.database), claims, days=days)
    return id


@pytest.mark.parametrize("kind", ["job", "batch"])
def test_week_with_something_unfinished_is_not_dropped(
    store: Store, batches: BatchStore, database: Database, kind: str
) -> None:
    call(database, "batchmill_add_week", week_of(30))
    if kind == "job":
        store.submit([new_job(id=id_of_age(30))])
    else:  # all its rows are final, and more may come
        refused = lines(1, id=id_of_age(30), error=REFUSAL)
        batches.append(new_batch(batches), refused, num_lines=1, num_bytes=0)

    with pytest.raises(DBAPIError, match="not finished"), database.engine.begin() as connection:
        connection.execute(text("SELECT batchmill_drop_week(:start)"), {"start": week_of(30)})

    assert num_rows(database)["jobs"] == 1


def test_rows_move_when_their_week_is_added(store: Store, claims: Claims, database: Database) -> None:
    job = new_job(id=id_of_age(30))
    store.submit([job])
    before = store.job(job.id)

    call(database, "batchmill_add_week", week_of(30))

    assert rows_in(database, f"jobs_{week_of(30):%Y%m%d}") == 1
    assert rows_in(database, "jobs_default") == 0
    assert store.job(job.id) == before


def test_custom_ids_are_unique_within_a_week(batches: BatchStore, database: Database) -> None:
    """What is lost: over the border of two weeks only the check of the file before finds a duplicate."""
    call(database, "batchmill_add_week", week_of(30))
    same, other = new_line(0, 0), new_line(1, 0)
    batch_id = whole_batch(batches, [same, other, new_line(2, 30)], max_attempts=1)

    assert [(row.line, row.error and row.error.code) for row in batches.results(batch_id)] == [
        (0, None),
        (1, "duplicate_custom_id"),
        (2, None),
    ]


def new_line(line: int, days: float) -> NewJob:
    return new_job(line=line, custom_id="same", id=id_of_age(days))


def test_retention_deletes_from_partitions_too(
    store: Store, batches: BatchStore, claims: Claims, database: Database, blobs: Blobs
) -> None:
    call(database, "batchmill_add_week", week_of(40))
    finished(store, claims, days=40)
    finished(store, claims, days=40, id=uuid4())
    finished_batch(batches, claims, days=40)

    assert clear(database, blobs) == {"job results": 2, "batches": 1, "batch rows": 3}
    grow_old(database, batch_table, 31)
    assert {step.what for step in Retention(database, blobs, MONTH).steps() if step.number} == {"traces of batches"}


def test_installation_with_jobs_is_not_converted(store: Store, postgresql_url: str) -> None:
    plain = Database(postgresql_url)
    Store(plain).submit([new_job()])

    with psycopg.connect(postgresql_url) as connection, pytest.raises(psycopg.Error, match="has rows"):
        connection.execute(PARTITIONS.read_bytes())

    assert num_rows(plain)["jobs"] == 1
    plain.dispose()
