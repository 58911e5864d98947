"""The events of a job: each state, each character once, to whoever comes and comes again."""

from collections.abc import Callable, Iterator
from itertools import islice
from uuid import UUID

import httpx
import pytest
import redis
from fastapi.testclient import TestClient

from models.database import Database
from models.feed import FIELD, Delta, feed_key
from models.ids import public_id
from models.settings import Settings, load_settings
from models.status import Status
from models.store import Store
from tests.integration.api.fakes import Worker
from tests.integration.api.streams import Event, Publisher, listening, read_events, submitted
from tests.integration.api.test_completions import error_of


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return load_settings(redis_url=redis_url, auth="auto", sync_timeout_seconds=5, model="demo")


@pytest.fixture
def publisher(redis_url: str) -> Iterator[Callable[[UUID], Publisher]]:
    made: list[Publisher] = []

    def make(job_id: UUID) -> Publisher:
        made.append(Publisher(redis_url, job_id))
        return made[-1]

    yield make
    for one in made:
        one.close()


def events_path(job_id: UUID) -> str:
    return f"/v1/jobs/{public_id('/v1/completions', job_id)}/events"


def text_of(events: list[Event], choice: int = 0) -> str:
    return "".join(event.data["text"] for event in events if event.name == "delta" and event.data["choice"] == choice)


def test_job_is_told_from_its_first_state_to_its_last(
    server: httpx.Client, database: Database, worker: Worker, publisher: Callable[[UUID], Publisher]
) -> None:
    job_id = submitted(database)
    feed = publisher(job_id)

    with listening(server, events_path(job_id)) as events:
        assert next(events).data["status"] == "queued"
        claimed = worker.claim(job_id)
        assert next(events).data["status"] == "in_progress"
        feed.say("Hel")
        assert next(events).data == {"choice": 0, "offset": 0, "text": "Hel"}
        feed.say("lo")
        assert next(events).data == {"choice": 0, "offset": 3, "text": "lo"}
        worker.complete(claimed, "Hello!")
        rest, last = list(events)

    assert (rest.name, rest.data["text"]) == ("delta", "!")
    assert (last.name, last.data["status"]) == ("job", "completed")
    assert last.data["result"]["choices"][0]["text"] == "Hello!"


def test_text_that_a_second_attempt_repeats_comes_once(
    server: httpx.Client, database: Database, worker: Worker, publisher: Callable[[UUID], Publisher]
) -> None:
    job_id = submitted(database)
    feed = publisher(job_id)
    worker.claim(job_id)
    feed.say("Hel")
    with listening(server, events_path(job_id)) as events:
        heard = [next(events), next(events)]
        worker.claims.release(worker.id)
        claimed = worker.claim(job_id)
        feed.begin_again()
        feed.say("He", "llo", "!")
        worker.complete(claimed, "Hello!")
        heard += events

    assert text_of(heard) == "Hello!"


@pytest.mark.parametrize("read", range(1, 4))
def test_listener_goes_on_where_it_lost_its_connection(
    server: httpx.Client, database: Database, worker: Worker, publisher: Callable[[UUID], Publisher], read: int
) -> None:
    job_id = submitted(database, n=2)
    feed = publisher(job_id)
    claimed = worker.claim(job_id)
    feed.say("one")
    feed.say("tw", choice=1)
    with listening(server, events_path(job_id)) as events:
        heard = list(islice(events, read))
    worker.complete(claimed, "one!", more=["two"])

    last_id = heard[-1].id
    assert last_id is not None
    with listening(server, events_path(job_id), headers={"last-event-id": last_id}) as events:
        heard += events

    assert [text_of(heard, choice) for choice in (0, 1)] == ["one!", "two"]
    assert [event.data["status"] for event in heard if event.name in ("status", "job")] == ["in_progress", "completed"]


def test_feed_that_is_gone_is_made_good_from_the_table(
    server: httpx.Client, database: Database, worker: Worker, publisher: Callable[[UUID], Publisher], redis_url: str
) -> None:
    job_id = submitted(database)
    feed = publisher(job_id)
    claimed = worker.claim(job_id)
    feed.say("Hel")
    with listening(server, events_path(job_id)) as events:
        heard = [next(events), next(events)]
        with redis.Redis.from_url(redis_url) as client:
            client.flushall()
        feed.say("lo")
        worker.complete(claimed, "Hello!")
        heard += events

    assert text_of(heard) == "Hello!"


def test_entries_that_cannot_be_used_are_passed_over(
    server: httpx.Client, database: Database, worker: Worker, publisher: Callable[[UUID], Publisher], redis_url: str
) -> None:
    job_id = submitted(database)
    claimed = worker.claim(job_id)
    with redis.Redis.from_url(redis_url) as client:
        for entry in ({FIELD: b"no json"}, {FIELD: b"[1]"}, {b"other": b"x"}):
            client.xadd(feed_key(job_id), entry)
    publisher(job_id).publish(Delta(0, 5, "beyond a gap"))
    publisher(job_id).say("Hel")
    with listening(server, events_path(job_id)) as events:
        heard = [next(events), next(events)]
        worker.complete(claimed, "Hello!")
        heard += events

    assert text_of(heard) == "Hello!"


def test_listener_of_a_job_that_does_not_stream_hears_its_end(
    server: httpx.Client, database: Database, worker: Worker
) -> None:
    job_id = submitted(database, stream=False)
    with listening(server, events_path(job_id)) as events:
        next(events)
        worker.fail(worker.claim(job_id), "worker_crashed")
        last = list(events)[-1]

    assert (last.name, last.data["status"], last.data["error"]["code"]) == ("job", "failed", "worker_crashed")


def test_final_job_is_told_at_once_and_not_again(client: TestClient, database: Database, worker: Worker) -> None:
    job_id = submitted(database)
    worker.complete(worker.claim(job_id), "Hello!")

    answer = client.get(events_path(job_id))

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert answer.headers["x-request-id"]
    heard = list(read_events(answer.iter_lines()))
    assert [event.name for event in heard] == ["delta", "job"]
    again = client.get(events_path(job_id), headers={"last-event-id": str(heard[-1].id)})
    assert (again.status_code, again.content) == (204, b"")


def test_many_listeners_hear_all_of_one_job(
    server: httpx.Client, database: Database, worker: Worker, publisher: Callable[[UUID], Publisher]
) -> None:
    job_id = submitted(database)
    feed = publisher(job_id)
    claimed = worker.claim(job_id)
    with (
        listening(server, events_path(job_id)) as early,
        listening(server, events_path(job_id)) as twin,
    ):
        first = [next(early), next(twin)]
        feed.say(*"Hello")
        heard = [[first[0], next(early)], [first[1], next(twin)]]
        with listening(server, events_path(job_id)) as late:
            heard.append([next(late), next(late)])
            worker.complete(claimed, "Hello!")
            for known, events in zip(heard, (early, twin, late), strict=True):
                known += events

    assert [text_of(known) for known in heard] == ["Hello!"] * 3


@pytest.mark.parametrize("text", ["x", "queued", "queued.0/1,", "queued.0/-1", "queued.0/" + "1," * 200 + "1"])
def test_id_of_no_event_is_refused(client: TestClient, database: Database, text: str) -> None:
    answer = client.get(events_path(submitted(database)), headers={"last-event-id": text})

    assert error_of(answer) == (400, "invalid_value", "Last-Event-ID")


def test_events_of_another_tenant_are_not_found(client: TestClient, database: Database) -> None:
    store = Store(database)
    job_id = submitted(database)
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE jobs SET tenant = 'other'")

    foreign, unknown = client.get(events_path(job_id)), client.get(events_path(UUID(int=7)))

    assert error_of(foreign) == error_of(unknown) == (404, "not_found", None)
    assert foreign.content == unknown.content
    assert store.statuses([job_id]) == {job_id: Status.QUEUED}
