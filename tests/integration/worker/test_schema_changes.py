"""The schema changes while a worker works: columns are only ever added, and what runs does not mind."""

from sqlalchemy import text

from models.status import Status
from tests.integration.worker.conftest import Station
from tests.integration.worker.test_worker import all_completed, submit
from tests.waiting import wait_until


def test_columns_added_under_a_working_worker_change_nothing(station: Station) -> None:
    worker = station.start_worker(BATCHMILL_ROWS="8")
    ids = submit(station, 1500)
    wait_until(lambda: Status.COMPLETED in station.store.statuses(ids).values(), 60)

    for table in ("jobs", "payloads", "completions", "workers", "batches"):
        with station.database.transaction() as connection:
            connection.execute(text(f"ALTER TABLE {table} ADD COLUMN of_the_next_version text DEFAULT 'x'"))

    assert not all_completed(station, ids)
    wait_until(lambda: all_completed(station, ids), 90)
    assert worker.poll() is None
    assert {job.attempt for job in station.store.jobs(ids)} == {1}
