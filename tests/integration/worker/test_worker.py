"""A worker process under real Celery: jobs in, results out, revokes, statistics, shutdown."""

import signal
from collections import Counter
from uuid import UUID

import pytest
from redis import Redis

from models.ids import job_id_of_task, uuid7
from models.records import NewJob
from models.status import Status
from tests.databases import ONE_IS_ENOUGH
from tests.integration.worker.conftest import Station
from tests.waiting import wait_until
from worker.hints import relay
from worker.result_backend import GenerationError


def submit(station: Station, number: int, *, announce: bool = True) -> list[UUID]:
    jobs = [
        NewJob(uuid7(), "noop", "/v1/completions", {"prompt": f"prompt {index}", "max_tokens": 1, "seed": 1})
        for index in range(number)
    ]
    station.store.submit(jobs)
    if announce:
        relay(station.app, station.store)
    return [job.id for job in jobs]


def all_completed(station: Station, ids: list[UUID]) -> bool:
    return Counter(station.store.statuses(ids).values()) == {Status.COMPLETED: len(ids)}


def test_another_service_sends_a_task_and_reads_its_result(station: Station) -> None:
    station.start_worker()
    sent = station.send()
    result = sent.get(timeout=30)
    assert (result["text"], result["finish_reason"], result["usage"]["completion_tokens"]) == ("hel", "length", 3)
    job = station.store.job(UUID(sent.id))
    assert job is not None
    assert (job.status, job.attempt) == (Status.COMPLETED, 1)


def test_every_answer_reaches_the_database_and_its_reader(station: Station) -> None:
    station.start_worker()
    sent = station.send(kwargs={"prompt": "hello", "max_tokens": 2, "n": 3})
    result = sent.get(timeout=30)
    assert [(choice["index"], choice["text"]) for choice in result["choices"]] == [(0, "he"), (1, "he"), (2, "he")]
    assert (result["text"], result["usage"]) == (
        "he",
        {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11},
    )


def test_every_prompt_of_a_list_counts_once(sqlite_station: Station) -> None:
    sqlite_station.start_worker()
    result = sqlite_station.send(kwargs={"prompt": ["hello", "you"], "max_tokens": 2, "n": 2}).get(timeout=30)
    assert [choice["text"] for choice in result["choices"]] == ["he", "he", "yo", "yo"]
    assert result["usage"] == {"prompt_tokens": 8, "completion_tokens": 8, "total_tokens": 16}


def test_listed_jobs_are_all_completed_once(station: Station) -> None:
    ids = submit(station, 1000)
    station.start_worker()
    wait_until(lambda: all_completed(station, ids))
    assert {job.attempt for job in station.store.jobs(ids)} == {1}


@ONE_IS_ENOUGH
def test_two_workers_share_one_queue(station: Station) -> None:
    station.start_worker(BATCHMILL_ROWS="4")
    station.start_worker(BATCHMILL_ROWS="4")
    ids = submit(station, 3000)
    wait_until(lambda: all_completed(station, ids))
    stats = station.app.control.inspect(timeout=3, limit=2).stats()
    committed = sorted(reply["pool"]["committed"] for reply in stats.values())
    assert sum(committed) == 3000
    assert committed[0] > 300


def test_bad_inline_job_ends_failed_with_its_reason(sqlite_station: Station) -> None:
    sqlite_station.start_worker()
    sent = sqlite_station.send(kwargs={"prompt": "a", "temprature": 1}, task_id="a name of our own")
    with pytest.raises(GenerationError, match="unknown_parameter"):
        sent.get(timeout=30)
    job = sqlite_station.store.job(job_id_of_task("a name of our own"))
    assert job is not None
    assert (job.status, job.attempt) == (Status.FAILED, 0)


def test_revoked_task_never_runs(sqlite_station: Station) -> None:
    sqlite_station.start_worker()
    wait_until(lambda: sqlite_station.app.control.inspect(timeout=1, limit=1).ping())
    sent = sqlite_station.send(countdown=3)
    sent.revoke()
    wait_until(lambda: sent.state == "REVOKED")


def test_revoke_of_a_queued_job_cancels_it(sqlite_station: Station) -> None:
    sqlite_station.start_worker()
    wait_until(lambda: sqlite_station.app.control.inspect(timeout=1, limit=1).ping())
    job = NewJob(uuid7(), "a model nobody serves", "/v1/completions", {"prompt": "a", "seed": 1})
    sqlite_station.store.submit([job])
    result = sqlite_station.app.AsyncResult(str(job.id))
    assert result.state == "PENDING"
    result.revoke()
    wait_until(lambda: sqlite_station.store.statuses([job.id])[job.id] == Status.CANCELLED)
    assert result.state == "REVOKED"


def test_hints_lost_with_redis_are_published_again(sqlite_station: Station) -> None:
    ids = submit(sqlite_station, 500)
    with Redis.from_url(sqlite_station.redis_url) as redis:
        redis.flushall()
    sqlite_station.start_worker()
    wait_until(lambda: all_completed(sqlite_station, ids))


def test_jobs_run_without_any_broker(sqlite_station: Station) -> None:
    ids = submit(sqlite_station, 300, announce=False)
    sqlite_station.start_worker(REDIS_URL="redis://127.0.0.1:1/0")
    wait_until(lambda: all_completed(sqlite_station, ids))


def test_messages_that_are_nonsense_harm_nobody(sqlite_station: Station) -> None:
    sqlite_station.start_worker()
    for args in ([], ["no list"], [["no id", 5, None]], [[str(uuid7())] * 300]):
        sqlite_station.app.send_task("generate_chunk", args=args, queue="generate.noop")
    assert sqlite_station.send().get(timeout=30)["text"] == "hel"


NO_TASKS = (
    b"[]",
    b"{}",
    b"7",
    b'"xyz"',
    b"null",
    b"[1, 2, 3]",
    b'[[], {}, "x"]',
    b'[[], "x", {}]',
    b"no json",
    b"\xff",
)


@pytest.mark.parametrize("headers", [{"id": "an id"}, {}, {"id": None}], ids=["id", "no id", "null"])
def test_messages_that_are_no_tasks_harm_nobody(sqlite_station: Station, headers: dict[str, str | None]) -> None:
    """Celery's own worker ends at each of them, and its successor too."""
    worker = sqlite_station.start_worker()
    with sqlite_station.app.producer_pool.acquire(block=True) as producer:
        for body in NO_TASKS:
            for task in ("generate", "generate_chunk", "intake"):
                told = {"task": task, "lang": "py", "argsrepr": "-", "kwargsrepr": "-", **headers}
                form = {"content_type": "application/json", "content_encoding": "utf-8", "serializer": None}
                producer.publish(body, routing_key="generate.noop", headers=told, **form)
        old = {"task": "generate", "args": [], "kwargs": {}}  # protocol 1 has all of it in the body
        for one in (old, old | {"id": "x", "args": 7}, old | {"id": "x", "kwargs": "y"}, {"id": "x"}):
            producer.publish(one, routing_key="generate.noop", serializer="json")
    assert sqlite_station.send().get(timeout=30)["text"] == "hel"
    assert worker.poll() is None


def test_sigterm_drains_and_leaves_the_workers_table(station: Station) -> None:
    ids = submit(station, 2000)
    worker = station.start_worker()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert station.store.workers() == []
    assert set(station.store.statuses(ids).values()) <= {Status.QUEUED, Status.COMPLETED}


@ONE_IS_ENOUGH
def test_killed_workers_rows_go_to_its_successor(station: Station) -> None:
    worker = station.start_worker()
    ids = submit(station, 20_000)
    wait_until(lambda: Status.COMPLETED in station.store.statuses(ids).values())
    worker.kill()
    worker.wait()
    station.start_worker()
    wait_until(lambda: all_completed(station, ids), 60)


def test_prompts_stay_out_of_logs_events_and_inspect(sqlite_station: Station) -> None:
    sqlite_station.start_worker()
    inspect = sqlite_station.app.control.inspect(timeout=1, limit=1)
    wait_until(inspect.ping)
    sqlite_station.send(kwargs={"prompt": "a SECRET", "max_tokens": 3}).get(timeout=30)
    sqlite_station.send(kwargs={"prompt": "a SECRET"}, countdown=60)
    wait_until(lambda: any((inspect.scheduled() or {}).values()))
    assert "SECRET" not in str(inspect.scheduled())
    assert "SECRET" not in sqlite_station.log()
