"""Hints: in Redis soon after the answer, and no answer later for a Redis that is away."""

import base64
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import redis
from fastapi.testclient import TestClient

from models.database import Database
from models.ids import parse_batch_id, parse_job_id
from models.messages import INTAKE, INTAKE_QUEUE, redis_lists
from models.settings import Settings, load_settings
from models.store import Store
from tests.integration.api.batch_making import request_line
from tests.integration.api.test_completions import BACKGROUND


@pytest.fixture
def queue(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def pop(queue: "redis.Redis") -> tuple[str, dict[str, object], list[object]]:
    """Take the next message: its list, its headers, its arguments."""
    found = queue.blpop(redis_lists("demo"), timeout=5)
    assert found is not None, "no message came"
    name, message = str(found[0]), orjson.loads(found[1])
    args = orjson.loads(base64.b64decode(message["body"]))[0]
    return name, message["headers"], args


class TestWithRedis:
    """The service with a Redis that answers."""

    @pytest.fixture
    def settings(self, redis_url: str, tmp_path: Path) -> Settings:
        return load_settings(redis_url=redis_url, model="demo", state_dir=tmp_path / "state")

    def test_hint_is_published_by_task_name(self, client: TestClient, queue: "redis.Redis") -> None:
        posted = client.post("/v1/completions", json=BACKGROUND | {"prompt": "secret"}).json()

        name, headers, args = pop(queue)

        assert (headers["task"], args) == ("generate_chunk", [[str(parse_job_id(posted["id"]))]])
        assert name == redis_lists("demo")[1]  # priority 4 of ours is Redis's 5, in the list of step 3
        assert "secret" not in str(headers)

    def test_batch_is_announced_to_every_worker_by_its_id(self, client: TestClient, queue: "redis.Redis") -> None:
        inline = {"requests": [request_line(1)], "endpoint": "/v1/completions", "completion_window": "1h"}
        batch = client.post("/v1/batches", json=inline).json()

        found = queue.blpop(INTAKE_QUEUE, timeout=5)

        assert found is not None
        message = orjson.loads(found[1])
        args = orjson.loads(base64.b64decode(message["body"]))[0]
        assert (message["headers"]["task"], args) == (INTAKE, [str(parse_batch_id(batch["id"]))])

    def test_ready_has_no_complaint_about_redis(self, client: TestClient) -> None:
        assert client.get("/health/ready").json()["redis"] == "ok"

    def test_higher_priority_lies_in_an_earlier_list(self, client: TestClient, queue: "redis.Redis") -> None:
        client.post("/v1/completions", json=BACKGROUND | {"priority": 9})

        assert pop(queue)[0] == redis_lists("demo")[0]


def test_submitting_does_not_wait_for_a_redis_that_is_away(client: TestClient, database: Database) -> None:
    started = time.monotonic()
    answers = [client.post("/v1/completions", json=BACKGROUND) for _ in range(5)]

    assert all(answer.status_code == 200 for answer in answers)
    assert time.monotonic() - started < 1
    time.sleep(0.3)  # the publisher has tried and given the rows back: a keeper will find them
    assert len(Store(database).take_unpublished(10)) == 5


class TestWithSilentRedis:
    """The service with a Redis that takes connections and says nothing, as a stopped process does."""

    @pytest.fixture
    def settings(self) -> Iterator[Settings]:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            yield load_settings(redis_url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0", model="demo")

    def test_submitting_is_not_slowed(self, client: TestClient, database: Database) -> None:
        started = time.monotonic()
        answers = [client.post("/v1/completions", json=BACKGROUND) for _ in range(5)]

        assert all(answer.status_code == 200 for answer in answers)
        assert time.monotonic() - started < 1
