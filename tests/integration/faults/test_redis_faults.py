"""Redis away, silent, emptied, evicting: only latency is lost."""

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from models.database import Database
from models.errors import BrokerUnavailable
from models.ids import parse_job_id, uuid7
from models.records import NewJob
from models.settings import Settings, load_settings
from models.status import Status
from models.store import Store
from tests.integration.faults.conftest import JOB, service
from tests.integration.faults.servers import PrivateRedis
from tests.integration.worker.conftest import Station
from tests.integration.worker.workbench import Workbench
from tests.waiting import wait_until
from worker.deliveries import Delivery
from worker.hints import relay
from worker.noop_engine import NoopEngine

LEASE_SECONDS = 2


@pytest.fixture
def settings(private_redis: PrivateRedis, tmp_path: Path) -> Settings:
    return load_settings(state_dir=tmp_path, redis_url=private_redis.url, auth="open", model="noop")


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    database = Database(sqlite_url)
    yield database
    database.dispose()


@pytest.fixture
def place(private_redis: PrivateRedis, sqlite_url: str, tmp_path: Path) -> Iterator[Station]:
    station = Station(sqlite_url, private_redis.url, tmp_path)
    yield station
    station.close()


def submit(station: Station, number: int) -> list[NewJob]:
    new = [NewJob(uuid7(), "noop", "/v1/completions", {"prompt": "a", "seed": 1}) for _ in range(number)]
    station.store.submit(new)
    with suppress(BrokerUnavailable):
        relay(station.app, station.store, model="noop")
    return new


def are_done(store: Store, new: list[NewJob]) -> bool:
    return set(store.statuses([job.id for job in new]).values()) == {Status.COMPLETED}


def test_job_submitted_without_redis_runs(
    private_redis: PrivateRedis, settings: Settings, database: Database, place: Station
) -> None:
    """F14: accepted, said to be degraded, found by the worker in the table."""
    place.start_worker()
    private_redis.kill()
    with service(settings, database) as client:
        answer = client.post("/v1/completions", json=JOB)
        ready = client.get("/health/ready")
        job_id = parse_job_id(answer.json()["id"])
        wait_until(lambda: place.store.statuses([job_id]) == {job_id: Status.COMPLETED})

    assert answer.status_code == 200
    assert (ready.status_code, ready.json()["status"], ready.json()["redis"]) == (200, "ready", "degraded")


def test_submitting_never_waits_for_a_redis_that_stands_still(
    private_redis: PrivateRedis, settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F39: Redis goes on only after every answer is there, so that none can have waited for it, and whoever does wait
    for it waits longer than this test may last."""
    monkeypatch.setattr("api.broker.TIMEOUT_SECONDS", 300.0)
    with service(settings, database) as client:
        with private_redis.stopped():
            answers = [client.post("/v1/completions", json=JOB) for _ in range(20)]
            ids = [parse_job_id(answer.json()["id"]) for answer in answers]
            stored = set(Store(database).statuses(ids).values())
        assert {answer.status_code for answer in answers} == {200}
        assert stored == {Status.QUEUED}


def test_worker_keeps_its_lease_and_works_while_redis_stands_still(private_redis: PrivateRedis, place: Station) -> None:
    """A partition from Redis looks the same. Nothing that renews the lease may wait for it."""
    place.start_worker(BATCHMILL_LEASE_SECONDS=str(LEASE_SECONDS), BATCHMILL_ROWS="16")
    before = submit(place, 200)
    [worker] = place.store.workers()
    with private_redis.stopped():
        place.store.submit(meanwhile := [NewJob(uuid7(), "noop", "/v1/completions", {"prompt": "b", "seed": 1})])
        wait_until(lambda: heartbeats(place, worker.id) > 2 * LEASE_SECONDS)
        wait_until(lambda: are_done(place.store, [*before, *meanwhile]), 60)
    afterwards = submit(place, 50)
    wait_until(lambda: are_done(place.store, afterwards), 60)

    assert [alive.id for alive in place.store.workers()] == [worker.id]
    assert {job.attempt for job in place.store.jobs([job.id for job in [*before, *meanwhile, *afterwards]])} == {1}


def heartbeats(place: Station, worker_id: object) -> float:
    """Seconds for which the worker has renewed its lease; fails where it is another incarnation by now."""
    [worker] = place.store.workers()
    assert worker.id == worker_id
    assert worker.heartbeat_at is not None
    assert worker.started_at is not None
    now = worker.heartbeat_at.timestamp()
    return now - FIRST.setdefault(worker.id, now)


FIRST: dict[object, float] = {}


def test_message_that_comes_again_runs_nothing_twice(database: Database) -> None:
    """F16: a message sent twice, or delivered again because its worker was slow to acknowledge it."""
    with Workbench(database, NoopEngine(rows=8)) as bench:
        ids = bench.submit(*[{"prompt": "a"}] * 20)
        for _ in range(3):
            bench.feeder.deliver(Delivery([*ids]))
        wait_until(lambda: set(bench.store.statuses(ids).values()) == {Status.COMPLETED})
        wait_until(lambda: not bench.feeder.num_waiting)

        assert {(job.attempt, len(job.completions)) for job in bench.store.jobs(ids)} == {(1, 1)}


@pytest.mark.parametrize(
    "loss", ["evicted", *(pytest.param(loss, marks=pytest.mark.slow) for loss in ("flushed", "restarted"))]
)
def test_messages_that_are_lost_are_sent_again(private_redis: PrivateRedis, place: Station, loss: str) -> None:
    """F15, with messages on their way and a worker that comes only afterwards."""
    new = submit(place, 2000)
    with private_redis.client() as client:
        assert client.dbsize() > 0
        if loss == "flushed":
            client.flushall()
        elif loss == "evicted":
            evict_everything(private_redis)
    if loss == "restarted":
        private_redis.kill()
        private_redis.start()
    place.start_worker()

    wait_until(lambda: are_done(place.store, new), 60)
    assert {job.attempt for job in place.store.jobs([job.id for job in new])} == {1}


def evict_everything(redis: PrivateRedis) -> None:
    """Have Redis throw away whatever it holds, as it may under any policy but noeviction."""
    with redis.client() as client:
        client.config_set("maxmemory-policy", "allkeys-random")
        client.config_set("maxmemory", 1)
        with suppress(Exception):  # refused once nothing is left to throw away
            client.set("one more", "key")
        client.config_set("maxmemory", 0)
        assert client.info("stats")["evicted_keys"] > 0


def test_redis_that_may_evict_is_told_of(
    private_redis: PrivateRedis,
    settings: Settings,
    database: Database,
    place: Station,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """F15: by the service and by the worker; neither refuses to start, as only latency is at stake."""
    private_redis.kill()
    private_redis.start("--maxmemory-policy", "allkeys-lru")
    place.start_worker()
    with caplog.at_level(logging.WARNING), service(settings, database) as client:
        ready = client.get("/health/ready")
        wait_until(lambda: "maxmemory-policy is allkeys-lru" in caplog.text)
    wait_until(lambda: "maxmemory-policy is allkeys-lru" in place.log())

    assert ready.status_code == 200
    assert any("maxmemory-policy is allkeys-lru" in warning for warning in ready.json()["warnings"])
