"""Lost hints, on a real Redis: found when the broker forgot them, left alone while messages wait."""

from collections.abc import Iterator

import pytest
from redis import Redis

from models.database import Database
from models.errors import BrokerUnavailable
from models.ids import uuid7
from models.records import NewJob
from models.store import Store
from worker.celery_app import BatchmillApp, create_app
from worker.hints import HintRepair, redis_client, relay


@pytest.fixture
def sqlite_store(sqlite_url: str) -> Iterator[Store]:
    """A store on SQLite."""
    database = Database(sqlite_url)
    yield Store(database)
    database.dispose()


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """The broker, to look into."""
    with redis_client(redis_url) as client:
        yield client


@pytest.fixture
def app(redis_url: str, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchmillApp]:
    """An application that publishes."""
    from models.settings import load_settings

    with create_app(load_settings(redis_url=redis_url, database_url=sqlite_url)) as app:
        yield app


def submit(store: Store, number: int) -> None:
    store.submit([NewJob(uuid7(), "m", "/v1/completions", {"prompt": "a", "seed": 1}) for _ in range(number)])


def num_unpublished(store: Store) -> int:
    return len(store.take_unpublished(1000))


def test_relay_publishes_each_row_once(app: BatchmillApp, sqlite_store: Store, redis: Redis) -> None:
    submit(sqlite_store, 100)
    assert relay(app, sqlite_store) == 100
    assert relay(app, sqlite_store) == 0
    assert sum(redis.llen(key) for key in redis.keys("generate.m*")) == 4  # messages of at most 32


def test_relay_without_redis_leaves_rows_unpublished(sqlite_store: Store) -> None:
    from models.settings import load_settings

    submit(sqlite_store, 3)
    with create_app(load_settings(redis_url="redis://127.0.0.1:1/0")) as app, pytest.raises(BrokerUnavailable):
        relay(app, sqlite_store)
    assert num_unpublished(sqlite_store) == 3


def test_emptied_redis_is_noticed_by_its_marker(app: BatchmillApp, sqlite_store: Store, redis: Redis) -> None:
    repair = HintRepair(sqlite_store, redis, model="m")
    repair.check(num_waiting=0)
    submit(sqlite_store, 3)
    relay(app, sqlite_store)
    assert repair.check(num_waiting=0) == 0
    redis.flushall()
    assert repair.check(num_waiting=0) == 3
    assert num_unpublished(sqlite_store) == 3


def test_single_lost_message_is_noticed_when_the_queue_is_empty(
    app: BatchmillApp, sqlite_store: Store, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.hints.QUIET_SECONDS", 0.0)
    repair = HintRepair(sqlite_store, redis, model="m")
    repair.check(num_waiting=0)
    submit(sqlite_store, 3)
    relay(app, sqlite_store)
    assert repair.check(num_waiting=0) == 0  # the message waits
    for key in redis.keys("generate.m*"):
        redis.delete(key)
    assert repair.check(num_waiting=3) == 0  # it is in our own inbox
    assert repair.check(num_waiting=0) == 3


def test_silent_broker_is_an_error_we_know(sqlite_store: Store) -> None:
    repair = HintRepair(sqlite_store, redis_client("redis://127.0.0.1:1/0"), model="m")
    with pytest.raises(BrokerUnavailable):
        repair.check(num_waiting=0)
