"""That a page of a list walks an index, on both databases: what it costs must not grow with the table."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from models.database import Database
from models.listing import JobFilter, Page
from models.records import NewJob
from models.status import Status
from models.store import Store
from tests.integration.store.making import new_job, new_jobs

NUM_JOBS = 1000


@pytest.fixture
def jobs(store: Store, database: Database) -> list[NewJob]:
    """Many queued jobs, a hundred of them with metadata."""
    described = [new_job(body={"metadata": {"team": "a"}}) for _ in range(100)]
    new = new_jobs(NUM_JOBS) + described
    store.submit(new)
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
    return new


class Plans:
    """Explains each statement that reads jobs, as it is sent."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def explain(self, connection: Connection, cursor: Any, statement: str, parameters: object, *_: object) -> None:  # noqa: ANN401 (the driver's)
        if not statement.startswith("SELECT") or "payloads" in statement:
            return
        words = "EXPLAIN QUERY PLAN"
        if connection.dialect.name == "postgresql":
            words = "EXPLAIN"
            cursor.execute("SET LOCAL enable_seqscan = off")  # of a table as small as this it is the best plan
            cursor.execute("SET LOCAL enable_bitmapscan = off")
        cursor.execute(f"{words} {statement}", parameters)
        self.lines += [str(row) for row in cursor.fetchall()]

    def scans(self) -> list[str]:
        """The lines that walk a whole table."""
        return [line for line in self.lines if "Seq Scan" in line or "SCAN jobs" in line or "SCAN job_metadata" in line]


@pytest.fixture
def plans(database: Database) -> Iterator[Plans]:
    plans = Plans()
    event.listen(database.engine, "before_cursor_execute", plans.explain)
    yield plans
    event.remove(database.engine, "before_cursor_execute", plans.explain)


@pytest.mark.parametrize(
    "wanted",
    [
        JobFilter(),
        JobFilter(status=Status.COMPLETED),
        JobFilter(status=Status.QUEUED, endpoint="/v1/completions"),
        JobFilter(endpoint="/v1/responses"),
        JobFilter(model="other"),
        JobFilter(metadata={"team": "a"}),
        JobFilter(metadata={"team": "b"}, status=Status.QUEUED),
    ],
)
@pytest.mark.parametrize("is_descending", [True, False])
def test_a_page_walks_an_index(
    store: Store, jobs: list[NewJob], plans: Plans, wanted: JobFilter, is_descending: bool
) -> None:
    for after in (None, jobs[-1].id):
        store.list_jobs("default", wanted, Page(20, after, is_descending))

    index = "job_metadata_found" if wanted.metadata else "jobs_listed"
    assert any(index in line for line in plans.lines)
    assert plans.scans() == []


def test_a_place_in_the_queue_walks_an_index(store: Store, jobs: list[NewJob], plans: Plans) -> None:
    store.queue_position(jobs[-1].id)

    assert any("jobs_unpublished" in line for line in plans.lines)
    assert plans.scans() == []
