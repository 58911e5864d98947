"""The database drops connections under a working worker."""

import time
from pathlib import Path

import psycopg

from models.ids import uuid7
from models.records import NewJob
from models.status import Status
from tests.integration.worker.conftest import Station
from tests.waiting import wait_until
from worker.hints import relay


def test_dropped_connections_lose_and_repeat_nothing(postgresql_url: str, redis_url: str, tmp_path: Path) -> None:
    place = Station(postgresql_url, redis_url, tmp_path)
    try:
        worker = place.start_worker(BATCHMILL_ROWS="64")
        new = [NewJob(uuid7(), "noop", "/v1/completions", {"prompt": "a", "seed": 1}) for _ in range(6000)]
        place.store.submit(new)
        relay(place.app, place.store)
        drop = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> %s"
        with psycopg.connect(postgresql_url, autocommit=True) as connection:
            for _ in range(15):
                connection.execute(drop, (connection.info.backend_pid,))
                time.sleep(0.15)
        ids = [job.id for job in new]
        place.database.dispose()  # this process's own connections were dropped as well
        wait_until(lambda: set(place.store.statuses(ids).values()) == {Status.COMPLETED}, 60)
        assert worker.poll() is None
        assert all(len(job.completions) == 1 for job in place.store.jobs(ids[:500]))
    finally:
        place.close()
