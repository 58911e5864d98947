"""Lists of batches, what their rows say, and deleting them, on both databases."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, func, select, text

from models import batch_deleting, batch_reads
from models.batch_store import BatchStore
from models.claims import Claims
from models.database import Database
from models.errors import BatchNotFinal, NotFound
from models.ids import uuid7
from models.records import ErrorCount, JobError
from models.status import BatchStatus, Status
from models.tables import completions, files, jobs, payloads
from tests.integration.store.making import completed, lines, new_batch, new_worker, whole_batch

TENANT = "default"


def ids(batches: BatchStore, **filters: object) -> list[UUID]:
    return [batch.id for batch in batches.list(TENANT, **{"limit": 10, **filters})]  # type: ignore[arg-type]


def some(batches: BatchStore, number: int, **changes: object) -> list[UUID]:
    """Batches, the newest first."""
    made = []
    for _ in range(number):
        made.append(new_batch(batches, **changes))
        time.sleep(0.002)  # SQLite's clock counts milliseconds
    return made[::-1]


def test_batches_are_listed_newest_first_page_by_page(batches: BatchStore) -> None:
    made = some(batches, 7)
    some(batches, 1, tenant="other")

    pages = [ids(batches, limit=3)]
    while pages[-1]:
        pages.append(ids(batches, limit=3, after=pages[-1][-1]))

    assert pages == [made[:3], made[3:6], made[6:], []]


def test_batches_of_the_same_moment_are_each_listed_once(batches: BatchStore) -> None:
    made = some(batches, 5)
    with batches.database.transaction() as connection:
        connection.execute(text("UPDATE batches SET created_at = (SELECT max(created_at) FROM batches)"))

    pages = [ids(batches, limit=2)]
    while pages[-1]:
        pages.append(ids(batches, limit=2, after=pages[-1][-1]))

    assert [id for page in pages for id in page] == sorted(made, reverse=True)


def test_an_unknown_or_foreign_cursor_is_refused(batches: BatchStore) -> None:
    for after in (uuid7(), new_batch(batches, tenant="other")):
        with pytest.raises(NotFound):
            batches.list(TENANT, after=after, limit=10)


def test_batches_are_listed_by_status_and_metadata(batches: BatchStore) -> None:
    plain, night, both = (
        new_batch(batches, metadata=metadata)
        for metadata in ({}, {"run": "night", 'a"$.b': "\0"}, {"run": "night", "user": "x"})
    )
    batches.cancel(night)

    assert ids(batches, status=BatchStatus.CANCELLED) == [night]
    assert set(ids(batches, metadata={"run": "night"})) == {night, both}
    assert ids(batches, metadata={"run": "night", "user": "x"}) == [both]
    assert ids(batches, metadata={'a"$.b': "\N{REPLACEMENT CHARACTER}"}) == [night]
    assert ids(batches, metadata={'a"$.b': "\0"}) == [night]
    assert ids(batches, metadata={"\0": "x"}) == []
    assert ids(batches, metadata={"run": "x"}) == []
    assert plain in ids(batches)


def test_errors_are_counted_by_code(batches: BatchStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_reads, "SAMPLE_ROWS", 12)
    rows = lines(20)
    codes = ["a", "b", "a", "c", "d", "e", "f", "f", "f", "a", "a", "b", "z", "z", "z", "z", "z", "z"]
    for n, code in enumerate(codes):
        rows[n] = replace(rows[n], error=JobError(code, f"message {n}"))
    batch_id = whole_batch(batches, rows)
    whole_batch(batches, lines(1, error=JobError("other", "of another batch")))

    counts = batches.first_errors(batch_id)

    assert counts[:3] == [
        ErrorCount("a", "message 0", 4),
        ErrorCount("f", "message 6", 3),
        ErrorCount("b", "message 1", 2),
    ]
    assert len(counts) == 5
    assert batches.first_errors(uuid7()) == []


def test_running_rows_of_a_batch_are_counted(batches: BatchStore, claims: Claims) -> None:
    rows, others = lines(4), lines(2)
    batch_id = whole_batch(batches, rows)
    whole_batch(batches, others)
    worker_id = new_worker(claims)

    claimed = claims.claim(worker_id, [row.id for row in (*rows[:3], *others)])

    assert batches.num_running(batch_id) == 3
    claims.commit(worker_id, [completed(job) for job in claimed])
    assert batches.num_running(batch_id) == 0


def test_questions_about_rows_read_no_whole_batch(batches: BatchStore) -> None:
    """Each goes by the index made for it: a batch has 50,000 rows, or a million."""
    rows = lines(3000)
    rows[7] = replace(rows[7], error=JobError("a", "b"))
    batch_id = whole_batch(batches, rows)
    database = batches.database
    if database.dialect == "postgresql":
        with database.transaction() as connection:
            connection.execute(text("ANALYZE jobs"))

    plans = [plan(database, partial(ask, batch_id)) for ask in (batches.first_errors, batches.num_running)]

    assert "jobs_failed" in plans[0]
    assert "jobs_owner" in plans[1]


def plan(database: Database, ask: Callable[[], object]) -> str:
    """How the database answers the last question that `ask` puts to it."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        asked.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    ask()
    event.remove(database.engine, "before_cursor_execute", note)
    statement, parameters = asked[-1]
    explain = "EXPLAIN QUERY PLAN" if database.dialect == "sqlite" else "EXPLAIN"
    with database.read() as connection:
        return str(connection.exec_driver_sql(f"{explain} {statement}", parameters).all())


def test_results_of_one_status(batches: BatchStore) -> None:
    rows = lines(6)
    rows[2], rows[4] = (replace(row, error=JobError("a", "b")) for row in (rows[2], rows[4]))
    batch_id = whole_batch(batches, rows)

    assert [job.line for job in batches.results(batch_id, status=Status.FAILED)] == [2, 4]
    assert [job.line for job in batches.results(batch_id, status=Status.FAILED, after_line=2)] == [4]
    assert [job.line for job in batches.results(batch_id, status=Status.QUEUED, limit=2)] == [0, 1]


def test_a_final_batch_is_deleted_with_its_rows_and_no_other(
    batches: BatchStore, claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_deleting, "CHUNK", 2)
    other = whole_batch(batches, lines(3))
    rows = lines(5)
    batch_id = whole_batch(batches, rows)
    worker_id = new_worker(claims)
    claims.commit(worker_id, [completed(job) for job in claims.claim(worker_id, [row.id for row in rows])])
    batch = batches.get(batch_id)
    assert batch is not None

    with pytest.raises(NotFound):
        batches.delete(batch_id, "other")
    batches.delete(batch_id, TENANT)

    assert batches.get(batch_id) is None
    with batches.database.read() as connection:
        for column in (completions.c.job_id, payloads.c.job_id, jobs.c.id):
            left = connection.scalars(select(column)).all()
            assert not {row.id for row in rows} & set(left)
        assert connection.scalar(select(func.count()).select_from(files)) == 0
    assert len(batches.results(other)) == 3
    with pytest.raises(NotFound):
        batches.delete(batch_id, TENANT)


def test_a_live_batch_is_not_deleted(batches: BatchStore, claims: Claims) -> None:
    rows = lines(1)
    batch_id = whole_batch(batches, rows)
    with pytest.raises(BatchNotFinal):
        batches.delete(batch_id)

    claims.claim(new_worker(claims), [rows[0].id])
    batches.cancel(batch_id)
    with pytest.raises(BatchNotFinal):
        batches.delete(batch_id)

    assert len(batches.results(batch_id)) == 1
