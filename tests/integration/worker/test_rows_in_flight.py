"""Rows being decoded by the demo model while something happens to them or to their worker."""

import signal
from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

from redis import Redis

from models.feed import feed_key
from models.ids import uuid7
from models.records import NewJob
from models.status import Status
from tests.databases import ONE_IS_ENOUGH
from tests.integration.worker.conftest import Station
from tests.waiting import wait_until
from worker.hints import relay

SHORT_LEASE = {"BATCHMILL_LEASE_SECONDS": "2", "BATCHMILL_ROWS": "8"}


def submit(station: Station, number: int, *, deadline: datetime | None = None, max_tokens: int = 150) -> list[UUID]:
    """Jobs of a known length."""
    body = {"prompt": "os.path:", "max_tokens": max_tokens, "ignore_eos": True}
    new = [
        NewJob(uuid7(), "demo", "/v1/completions", body | {"seed": seed}, deadline=deadline) for seed in range(number)
    ]
    station.store.submit(new)
    relay(station.app, station.store)
    return [job.id for job in new]


def count(station: Station, ids: list[UUID]) -> Counter[Status]:
    return Counter(station.store.statuses(ids).values())


def wait_for_flight(station: Station, ids: list[UUID]) -> None:
    wait_until(lambda: count(station, ids)[Status.IN_PROGRESS] >= 8, 60)


def test_cancelled_row_ends_and_its_neighbours_go_on(sqlite_station: Station) -> None:
    sqlite_station.start_worker(model="demo", BATCHMILL_ROWS="8")
    ids = submit(sqlite_station, 8, max_tokens=240)
    wait_for_flight(sqlite_station, ids)
    assert sqlite_station.store.cancel(ids[3]) == Status.IN_PROGRESS
    wait_until(lambda: sqlite_station.store.statuses([ids[3]])[ids[3]] == Status.CANCELLED)
    wait_until(lambda: count(sqlite_station, ids) == {Status.COMPLETED: 7, Status.CANCELLED: 1})


def test_row_past_its_deadline_expires(sqlite_station: Station) -> None:
    sqlite_station.start_worker(model="demo", BATCHMILL_ROWS="8")
    others = submit(sqlite_station, 40)
    late = submit(sqlite_station, 1, deadline=datetime.now(UTC) + timedelta(seconds=1))
    wait_until(lambda: count(sqlite_station, late)[Status.EXPIRED])
    wait_until(lambda: count(sqlite_station, others) == {Status.COMPLETED: 40})


@ONE_IS_ENOUGH
def test_killed_workers_rows_are_suspects_to_its_successor(station: Station) -> None:
    worker = station.start_worker(model="demo", BATCHMILL_ROWS="8")
    ids = submit(station, 16)
    wait_for_flight(station, ids)
    worker.kill()
    worker.wait()
    station.start_worker(model="demo", BATCHMILL_ROWS="8")
    wait_until(lambda: count(station, ids) == {Status.COMPLETED: 16}, 60)
    jobs = station.store.jobs(ids)
    assert {(job.attempt, job.suspicion) for job in jobs} >= {(2, 1)}
    assert all(len(job.completions) == 1 for job in jobs)


@ONE_IS_ENOUGH
def test_sleeping_workers_rows_go_to_another_and_its_late_results_are_refused(station: Station) -> None:
    sleeper = station.start_worker(model="demo", **SHORT_LEASE)
    ids = submit(station, 8, max_tokens=240)
    wait_for_flight(station, ids)
    station.freeze(sleeper)
    station.start_worker(model="demo", **SHORT_LEASE)
    wait_until(lambda: count(station, ids) == {Status.COMPLETED: 8}, 60)
    sleeper.send_signal(signal.SIGCONT)
    more = submit(station, 40)
    wait_until(lambda: count(station, more) == {Status.COMPLETED: 40}, 60)
    jobs = station.store.jobs(ids + more)
    assert {(len(job.completions), job.suspicion) for job in jobs} == {(1, 0)}
    wait_until(lambda: len(station.store.workers()) == 2)  # the sleeper is back, as a new incarnation


def test_list_that_was_begun_in_part_is_given_back_at_shutdown(sqlite_station: Station) -> None:
    """What runs is finished; of a list most has not begun, so all of it goes back, and nobody is to blame."""
    worker = sqlite_station.start_worker(model="demo", BATCHMILL_ROWS="2")
    [running] = submit(sqlite_station, 1, max_tokens=240)
    some = {"max_tokens": 240, "ignore_eos": True, "seed": 1, "stream": True}
    listed = NewJob(uuid7(), "demo", "/v1/completions", {"prompt": ["os.path:"] * 40, **some})
    sqlite_station.store.submit([listed])
    relay(sqlite_station.app, sqlite_station.store)
    with Redis.from_url(sqlite_station.redis_url) as redis:
        wait_until(lambda: redis.xlen(feed_key(listed.id)), 60)  # its first prompt is being answered
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert sqlite_station.store.statuses([running, listed.id]) == {
        running: Status.COMPLETED,
        listed.id: Status.QUEUED,
    }
    assert sqlite_station.store.workers() == []

    sqlite_station.start_worker(model="demo", BATCHMILL_ROWS="64")
    wait_until(lambda: count(sqlite_station, [listed.id])[Status.COMPLETED], 60)
    [job] = sqlite_station.store.jobs([listed.id])
    assert (job.attempt, job.suspicion, len(job.completions)) == (2, 0, 40)
    assert len({completion.text for completion in job.completions}) == 1  # the first attempt left nothing behind


def test_second_attempt_gives_the_same_tokens(sqlite_station: Station) -> None:
    ids = submit(sqlite_station, 8)
    worker = sqlite_station.start_worker(model="demo", BATCHMILL_ROWS="8")
    wait_for_flight(sqlite_station, ids)
    worker.send_signal(signal.SIGQUIT)
    worker.wait(30)
    sqlite_station.start_worker(model="demo", BATCHMILL_ROWS="3")
    again = submit(sqlite_station, 8)
    wait_until(lambda: count(sqlite_station, ids + again) == {Status.COMPLETED: 16}, 60)
    first, second = (sqlite_station.store.jobs(some) for some in (ids, again))
    assert {job.attempt for job in first} == {2}
    for one, other in zip(first, second, strict=True):
        assert one.completions[0].token_ids == other.completions[0].token_ids
        assert one.completions[0].logprobs == other.completions[0].logprobs


def test_worker_takes_no_more_messages_than_it_can_soon_decode(sqlite_station: Station) -> None:
    ids = submit(sqlite_station, 320, max_tokens=240)  # ten messages of 32
    sqlite_station.start_worker(model="demo", BATCHMILL_ROWS="8")
    wait_for_flight(sqlite_station, ids)
    stats = sqlite_station.app.control.inspect(timeout=3, limit=1).stats()
    (pool,) = (reply["pool"] for reply in stats.values())
    assert pool["inbox"] + pool["staged"] < 2 * 32 + 8  # a message in hand, and one popped while it was
