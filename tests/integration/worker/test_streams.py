"""Feeds of jobs that stream: through a real Redis they say what is committed; without one nothing is held up."""

import logging
import socket
from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from redis import Redis

from models.database import Database
from models.feed import FIELD, TTL_SECONDS, Delta, decode, feed_key
from models.records import JobRecord
from models.status import Status
from tests.integration.worker.workbench import Workbench
from tests.unit.engine.models import tiny_llama, write_tiktoken
from tests.waiting import wait_until
from worker.engine import Engine, Output
from worker.noop_engine import NoopEngine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("streams")
    tiny_llama(folder, scale=1.0)
    write_tiktoken(folder)
    return Engine.load(folder, rows=6)


@pytest.fixture
def sqlite(sqlite_url: str) -> Database:
    return Database(sqlite_url)


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def read_feed(redis: Redis, job_id: UUID) -> dict[int, list[Delta]]:
    """The pieces of each choice, in order."""
    pieces: dict[int, list[Delta]] = defaultdict(list)
    entries: Any = redis.xrange(feed_key(job_id))
    for _, fields in entries:
        delta = decode(fields[FIELD])
        pieces[delta.choice].append(delta)
    return pieces


def check(job: JobRecord, pieces: dict[int, list[Delta]]) -> None:
    """Every choice's pieces follow each other, and say what was committed."""
    assert job.status is Status.COMPLETED
    assert sorted(pieces) == [entry.choice_index for entry in job.completions]
    for entry in job.completions:
        text, tokens, ids = "", list[Any](), list[int]()
        for delta in pieces[entry.choice_index]:
            assert (delta.offset, delta.token_offset) == (len(text), len(tokens))
            text, tokens, ids = text + delta.text, [*tokens, *delta.tokens], [*ids, *delta.token_ids]
        assert text == entry.text
        assert tokens == (entry.details or {}).get("tokens")
        assert ids == list(entry.token_ids)


ASKED = {"stream": True, "max_tokens": 20, "ignore_eos": True, "logprobs": 1, "return_token_ids": True, "n": 2}
LETTERS = {str(ord(letter)): 30 for letter in "abcdefgh "}  # no half characters, which come with the result alone


@pytest.mark.parametrize("prompt", ["one prompt", ["first", "second", "first"]])
@pytest.mark.parametrize("echo", [False, True])
def test_feed_says_what_is_committed(
    sqlite: Database, redis_url: str, redis: Redis, engine: Engine, prompt: object, echo: bool
) -> None:
    with Workbench(sqlite, engine, redis_url=redis_url) as bench:
        job_id, silent = bench.submit(
            {"prompt": prompt, **ASKED, "echo": echo, "logit_bias": LETTERS}, {"prompt": "another", "max_tokens": 3}
        )
        job = bench.result(job_id)
        bench.result(silent)
    check(job, read_feed(redis, job_id))
    time_left: Any = redis.ttl(feed_key(job_id))
    assert 0 < time_left <= TTL_SECONDS
    assert not redis.exists(feed_key(silent))


class UnfinishedEngine(NoopEngine):
    """Says everything and ends nothing."""

    def step(self) -> list[Output]:
        super().step()
        return []


def test_text_arrives_before_the_job_ends(sqlite: Database, redis_url: str, redis: Redis) -> None:
    with Workbench(sqlite, UnfinishedEngine(rows=4), redis_url=redis_url) as bench:
        [job_id] = bench.submit({"prompt": "hello", "stream": True, "max_tokens": 4})
        wait_until(lambda: redis.exists(feed_key(job_id)))
        assert bench.store.statuses([job_id]) == {job_id: Status.IN_PROGRESS}
        assert read_feed(redis, job_id) == {0: [Delta(0, 0, "hell", 0, [], [])]}
        bench.store.cancel(job_id)
        bench.result(job_id)


@pytest.mark.parametrize("echo", [False, True])
def test_noop_engine_feeds_too(sqlite: Database, redis_url: str, redis: Redis, echo: bool) -> None:
    with Workbench(sqlite, NoopEngine(rows=4), redis_url=redis_url) as bench:
        [job_id] = bench.submit({"prompt": "hello", **ASKED, "max_tokens": 3, "echo": echo})
        job = bench.result(job_id)
    check(job, read_feed(redis, job_id))


@pytest.fixture(params=["refuses", "is silent"])
def lost_redis(request: pytest.FixtureRequest) -> Iterator[str]:
    """An address where nobody listens, or somebody who never answers."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        if request.param == "is silent":
            place.listen(64)
        yield f"redis://127.0.0.1:{place.getsockname()[1]}/0"


def test_job_completes_without_redis(
    sqlite: Database, engine: Engine, lost_redis: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), Workbench(sqlite, engine, redis_url=lost_redis) as bench:
        ids = bench.submit(*({"prompt": "a SECRET", **ASKED} for _ in range(3)))
        jobs = [bench.result(job_id) for job_id in ids]
        wait_until(lambda: bench.streamer.num_dropped)
    assert [job.status for job in jobs] == [Status.COMPLETED] * 3
    lines = [record for record in caplog.records if getattr(record, "action", "") == "stream_dropped"]
    assert len(lines) == 1
    assert "SECRET" not in caplog.text
