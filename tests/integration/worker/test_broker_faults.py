"""Redis dies and comes back, with a worker on it."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from models.errors import BrokerUnavailable
from models.ids import uuid7
from models.records import NewJob
from models.status import Status
from tests.integration.faults.servers import PrivateRedis
from tests.integration.worker.conftest import Station
from tests.waiting import wait_until
from worker.hints import relay


@pytest.fixture
def private_redis(tmp_path: Path) -> Iterator[PrivateRedis]:
    """Running."""
    redis = PrivateRedis(tmp_path)
    yield redis
    redis.kill()


def submit(station: Station, number: int) -> list[NewJob]:
    new = [NewJob(uuid7(), "noop", "/v1/completions", {"prompt": "a", "seed": 1}) for _ in range(number)]
    station.store.submit(new)
    with suppress(BrokerUnavailable):
        relay(station.app, station.store)
    return new


def test_worker_outlives_a_killed_redis(private_redis: PrivateRedis, sqlite_url: str, tmp_path: Path) -> None:
    station = Station(sqlite_url, private_redis.url, tmp_path)
    try:
        worker = station.start_worker(BATCHMILL_ROWS="16")
        before = submit(station, 2000)
        private_redis.kill()
        meanwhile = submit(station, 200)
        ids = [job.id for job in before + meanwhile]
        wait_until(lambda: set(station.store.statuses(ids).values()) == {Status.COMPLETED}, 60)
        private_redis.start()
        afterwards = [job.id for job in submit(station, 500)]
        wait_until(lambda: set(station.store.statuses(afterwards).values()) == {Status.COMPLETED}, 60)
        wait_until(lambda: station.app.control.inspect(timeout=1, limit=1).ping())
        assert worker.poll() is None
        assert {job.attempt for job in station.store.jobs(ids + afterwards)} == {1}
    finally:
        station.close()
