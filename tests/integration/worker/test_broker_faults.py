"""Redis dies and comes back, with a worker on it."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from cli.embedded import find_redis_server
from models.errors import BrokerUnavailable
from models.ids import uuid7
from models.records import NewJob
from models.status import Status
from tests.conftest import free_port
from tests.integration.worker.conftest import Station
from tests.waiting import wait_until
from worker.hints import relay


class PrivateRedis:
    """A Redis of this test's own, on one port throughout."""

    def __init__(self, folder: Path) -> None:
        self.port, self.folder = free_port(), folder
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        """Start it empty."""
        command = [find_redis_server(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL)
        wait_until(self._answers, 10)

    def _answers(self) -> bool:
        with suppress(RedisError), Redis.from_url(self.url) as client:
            return bool(client.ping())
        return False

    def kill(self) -> None:
        """As the machine would."""
        self.process.kill()
        self.process.wait()


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
