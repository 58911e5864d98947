"""A backlog of one owner, and what passes it: another owner's jobs, urgent ones, those that waited long."""

import base64
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from redis import Redis
from sqlalchemy import func, select, update

from models.database import Database
from models.ids import uuid7
from models.messages import NUM_LISTS, redis_lists
from models.records import NewJob
from models.settings import load_settings
from models.status import Status
from models.store import Store
from models.tables import jobs
from tests.integration.worker.conftest import Station
from tests.waiting import wait_until
from worker.celery_app import BatchmillApp, create_app
from worker.hints import HintRepair, list_lengths, redis_client, relay
from worker.supply import MAX_WINDOW, MIN_WINDOW, Supply

AGEING_SECONDS = 100.0
BODY = {"prompt": "a", "max_tokens": 1, "seed": 1}


def new(number: int, **values: Any) -> list[NewJob]:  # noqa: ANN401 (any field of NewJob)
    return [NewJob(uuid7(), "noop", "/v1/completions", BODY, **values) for _ in range(number)]


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with redis_client(redis_url) as client:
        yield client


@pytest.fixture
def app(redis_url: str) -> Iterator[BatchmillApp]:
    with create_app(load_settings(redis_url=redis_url)) as app:
        yield app


def supply_of(app: BatchmillApp, store: Store, redis: Redis, *, num_rows: int) -> Supply:
    return Supply(
        app,
        store,
        redis,
        model="noop",
        num_rows=num_rows,
        ageing_seconds=AGEING_SECONDS,
        on_crash=lambda: None,
    )


@pytest.fixture
def supply(app: BatchmillApp, store: Store, redis: Redis) -> Supply:
    """A worker's, with messages of 32 rows; the test looks for it."""
    return supply_of(app, store, redis, num_rows=1)


def pop(redis: Redis) -> list[UUID]:
    """The ids of the next message, taken as Celery takes it; none where none waits."""
    found = redis.brpop(redis_lists("noop"), timeout=0.01)
    if found is None:
        return []
    [ids], _, _ = orjson.loads(base64.b64decode(orjson.loads(found[1])["body"]))
    return [UUID(text) for text in ids]


class TestWithWorkers:
    """What a worker begins first."""

    def test_ten_jobs_of_another_owner_and_an_urgent_one_pass_twenty_thousand(
        self, station: Station, redis: Redis
    ) -> None:
        HintRepair(station.store, redis, model="noop").check(num_waiting=0)  # else a new Redis has all announced again
        backlog, others, [urgent] = new(20_000, tenant="big"), new(10, tenant="small"), new(1, tenant="big", priority=9)
        station.store.submit(backlog)
        relay(station.app, station.store)
        station.store.submit([*others, urgent])
        relay(station.app, station.store)
        station.start_worker()
        ids = [job.id for job in (*others, urgent)]
        wait_until(lambda: set(station.store.statuses(ids).values()) == {Status.COMPLETED}, 60)

        wait_until(lambda: not station.store.queue_depth(), 60)
        assert num_begun(station, "big", before=urgent.id) == 0
        assert all(num_begun(station, "big", before=job.id) < 10_000 for job in others)

    def test_flushed_redis_with_a_window_outstanding_loses_nothing(self, station: Station, redis: Redis) -> None:
        HintRepair(station.store, redis, model="noop").check(num_waiting=0)
        waiting = new(3000)
        station.store.submit(waiting)
        relay(station.app, station.store)
        redis.flushall()
        station.start_worker()
        ids = [job.id for job in waiting]
        wait_until(lambda: set(station.store.statuses(ids).values()) == {Status.COMPLETED}, 60)


def num_begun(station: Station, tenant: str, *, before: UUID) -> int:
    """How many jobs of an owner began before a job."""
    began = select(jobs.c.started_at).where(jobs.c.id == before).scalar_subquery()
    query = select(func.count()).where(jobs.c.tenant == tenant, jobs.c.started_at < began)
    with station.database.read() as connection:
        return connection.scalars(query).one()


class TestSupply:
    """How much lies in Redis."""

    def test_no_list_holds_more_than_its_window(self, supply: Supply, store: Store, redis: Redis) -> None:
        store.submit(new(3000) + new(3000, priority=9))
        for _ in range(5):
            supply.top_up()

        assert max(list_lengths(redis, "noop")) <= 16
        assert store.queue_depth() == {"noop": 6000}

    def test_window_grows_where_it_is_taken_empty_and_shrinks_where_nothing_is_taken(
        self, supply: Supply, store: Store, redis: Redis
    ) -> None:
        store.submit(new(30_000))
        sizes = []
        for _ in range(5):
            supply.top_up()
            sizes.append(sum(list_lengths(redis, "noop")))
            while pop(redis):
                pass
        assert sizes == [16, 32, 64, 128, 128]
        assert max(supply.windows) == MAX_WINDOW

        for _ in range(60):
            supply.top_up()
        assert supply.windows[1] == MIN_WINDOW

    def test_what_was_begun_goes_on_once_taken(self, supply: Supply, store: Store, redis: Redis) -> None:
        backlog = new(2000)
        store.submit(backlog)
        seen: list[UUID] = []
        while supply.top_up():
            while ids := pop(redis):
                seen += ids
        assert seen == [job.id for job in backlog]

    def test_a_lower_list_that_is_never_come_to_ages(
        self, supply: Supply, store: Store, redis: Redis, database: Database
    ) -> None:
        """Urgent rows come faster than they are taken; time passes by the clock of the table alone."""
        [low] = new(1, priority=0)
        store.submit([low])
        supply.top_up()
        for number in range(40):
            store.submit(new(300, priority=9))
            supply.top_up()
            for _ in range(4):
                ids = pop(redis)
                if low.id in ids:
                    assert number >= 9, "before its time"
                    assert list_lengths(redis, "noop")[0] > 0, "the load was not constant"
                    return
                end(database, ids)
            pass_time(database, AGEING_SECONDS / 3, low.id)
        pytest.fail("the low one was never served")


def end(database: Database, ids: list[UUID]) -> None:
    """As if they were done."""
    with database.transaction() as connection:
        connection.execute(
            update(jobs).where(jobs.c.id.in_(ids)).values(status=Status.CANCELLED, finished_at=jobs.c.created_at)
        )


def pass_time(database: Database, seconds: float, job_id: UUID) -> None:
    """As if a job had been accepted and announced so much earlier."""
    with database.transaction() as connection:
        this = jobs.c.id == job_id
        row = connection.execute(select(jobs.c.created_at, jobs.c.published_at).where(this)).one()
        earlier = {
            name: value - timedelta(seconds=seconds) for name, value in row._mapping.items() if value is not None
        }
        connection.execute(update(jobs).where(this).values(earlier))


def test_lists_are_those_that_hold_messages(app: BatchmillApp, store: Store, redis: Redis) -> None:
    store.submit([*new(1, priority=9), *new(1), *new(1, priority=2), *new(1, priority=0)])
    relay(app, store)
    assert list_lengths(redis, "noop") == [1] * NUM_LISTS
