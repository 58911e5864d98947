"""What operators and owners see: models, the queue, usage, limits, metrics."""

import asyncio
import threading
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from api.app import create_app
from api.snapshot import Snapshot
from models.database import Database
from models.ids import parse_job_id, uuid7
from models.key_store import KeyStore
from models.records import NewJob, WorkerRecord
from models.settings import Settings
from models.store import Store
from tests.integration.api.fakes import Worker
from tests.integration.api.test_completions import BACKGROUND, error_of

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(client: TestClient) -> Samples:
    """What Prometheus would read."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(answer.text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def labels(**given: str) -> frozenset[tuple[str, str]]:
    return frozenset(given.items())


@pytest.fixture
def aliased(settings: Settings, database: Database) -> Iterator[TestClient]:
    aliases = {"org/name": "demo", "gpt-4": "demo", "nobody": "missing"}
    app = create_app(settings.model_copy(update={"model_aliases": aliases}), database)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_model_tells_what_all_its_workers_can_do(client: TestClient, worker: Worker) -> None:
    other = WorkerRecord(
        uuid7(), "host/1", "host", 2, "demo", rows=4, max_model_len=64, dtype="bfloat16", device="cuda"
    )
    worker.claims.register(other, lease_seconds=60)

    [model] = client.get("/v1/models").json()["data"]

    assert (model["id"], model["root"], model["state"]) == ("demo", "demo", "loaded")
    assert (model["max_model_len"], model["rows"], model["workers"]) == (64, 12, 2)
    assert model["dtype"] == "bfloat16, float32"
    assert model["created"] > 0


@pytest.mark.parametrize("state", ["unhealthy", "draining"])
def test_model_that_no_worker_takes_jobs_for_says_so(client: TestClient, worker: Worker, state: str) -> None:
    worker.claims.heartbeat(worker.id, lease_seconds=60, state=state)
    assert [model["state"] for model in client.get("/v1/models").json()["data"]] == [state]
    worker.claims.register(WorkerRecord(uuid7(), "host/1", "host", 2, "demo"), lease_seconds=60)
    assert [model["state"] for model in client.get("/v1/models").json()["data"]] == ["loaded"]


def test_alias_of_a_live_model_is_listed_with_its_root(aliased: TestClient, worker: Worker) -> None:
    models = {model["id"]: model for model in aliased.get("/v1/models").json()["data"]}

    assert models.keys() == {"demo", "org/name", "gpt-4"}
    assert models["gpt-4"] == models["demo"] | {"id": "gpt-4"}
    assert models["gpt-4"]["root"] == "demo"


@pytest.mark.parametrize("path", ["org/name", quote("org/name", safe="")])
def test_model_with_a_slash_is_found(aliased: TestClient, worker: Worker, path: str) -> None:
    assert aliased.get(f"/v1/models/{path}").json()["id"] == "org/name"


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "http://127.0.0.1/x", "hub/user", "demo/", "demo\x00", "x" * 10_000]
)
def test_model_name_is_no_path_and_no_address(client: TestClient, worker: Worker, name: str) -> None:
    assert error_of(client.get(f"/v1/models/{quote(name, safe='')}"))[:2] == (404, "model_not_found")


def test_queue_shows_the_callers_own_and_an_administrator_all(app: FastAPI, database: Database, worker: Worker) -> None:
    store, keys = Store(database), KeyStore(database)
    jobs = [("a", "demo", 4), ("a", "demo", 4), ("a", "demo", 7), ("a", "other", 4), ("b", "demo", 4)]
    store.submit(
        [
            NewJob(uuid7(), model, "/v1/completions", {}, tenant=tenant, priority=priority)
            for tenant, model, priority in jobs
        ]
    )

    shown = {}
    for name, is_admin in (("a", False), ("boss", True), ("c", False)):
        headers = {"authorization": f"Bearer {keys.create(name, is_admin=is_admin)[0]}"}
        shown[name] = TestClient(app, headers=headers).get("/v1/queue").json()

    assert (shown["a"]["depth"], shown["boss"]["depth"], shown["c"]["depth"]) == (4, 5, 0)
    [demo, other] = shown["a"]["models"]
    assert (demo["model"], demo["depth"], demo["by_priority"]) == ("demo", 3, {"7": 1, "4": 2})
    assert (demo["workers"], demo["rows"], other["workers"]) == (1, 8, 0)
    assert 0 <= demo["oldest_seconds"] < 60
    assert shown["c"]["oldest_seconds"] is None
    assert [model["model"] for model in shown["c"]["models"]] == ["demo"]


def test_usage_is_the_callers_own(app: FastAPI, client: TestClient, database: Database, worker: Worker) -> None:
    done, waiting = (client.post("/v1/completions", json=BACKGROUND).json()["id"] for _ in range(2))
    worker.complete(worker.claim(parse_job_id(done)))
    assert waiting

    mine = client.get("/v1/usage").json()
    key = KeyStore(database).create("team")[0]
    others = client.get("/v1/usage", headers={"authorization": f"Bearer {key}"}).json()

    assert mine["jobs"]["total"] == 2
    assert (mine["jobs"]["completed"], mine["jobs"]["unfinished"]) == (1, 1)
    assert (mine["input_tokens"], mine["output_tokens"], mine["total_tokens"]) == (3, 2, 5)
    assert (others["jobs"]["total"], others["total_tokens"]) == (0, 0)


@pytest.mark.parametrize(
    "query",
    [
        {"start_time": 100, "end_time": 100},
        {"start_time": 200, "end_time": 100},
        {"start_time": 0, "end_time": 32 * 24 * 3600},
        {"start_time": -1},
        {"start_time": "yesterday"},
        {"end_time": 10**18},
    ],
)
def test_usage_is_of_a_bounded_time(client: TestClient, query: dict[str, object]) -> None:
    assert error_of(client.get("/v1/usage", params=query))[:2] == (400, "invalid_value")  # type: ignore[arg-type]


def test_limits_are_those_of_the_settings(settings: Settings, database: Database) -> None:
    changed = settings.model_copy(update={"max_file_bytes": 5000, "max_batch_requests": 7, "max_line_bytes": 2048})

    limits = TestClient(create_app(changed, database)).get("/v1/limits").json()

    assert (limits["file"]["bytes"], limits["batch"]["requests"], limits["batch"]["line_bytes"]) == (5000, 7, 2048)
    assert (limits["request"]["body_bytes"], limits["batch"]["inline_requests"]) == (4 << 20, 1000)
    assert limits["generation"]["logprobs"] == 20


def test_limit_that_is_told_is_the_one_that_holds(client: TestClient, worker: Worker) -> None:
    limits = client.get("/v1/limits").json()["generation"]
    for field, most in (("n", limits["n"]), ("logprobs", limits["logprobs"]), ("best_of", limits["best_of"])):
        fits, beyond = (client.post("/v1/completions", json=BACKGROUND | {field: most + more}) for more in (0, 1))

        assert (fits.status_code, beyond.status_code) == (200, 400)


def test_metrics_tell_the_load(client: TestClient, worker: Worker) -> None:
    client.post("/v1/completions", json=BACKGROUND)

    told = samples(client)

    assert told["batchmill_queue_depth", labels(model="demo")] == 1
    assert told["batchmill_oldest_queued_seconds", labels(model="demo")] < 60
    assert told["batchmill_workers", labels(model="demo", state="ready")] == 1
    assert told["batchmill_batches", labels(status="in_progress")] == 0
    assert told["batchmill_database_up", labels()] == 1


def test_requests_are_counted_by_the_template_of_their_route(client: TestClient) -> None:
    for path in (f"/v1/jobs/{uuid7()}", f"/v1/jobs/{uuid7()}", "/v1/nothing", "/v1/models"):
        client.get(path)
    client.request("BREW", "/v1/models")

    told = samples(client)

    name = "batchmill_http_requests_total"
    assert told[name, labels(method="GET", route="/v1/jobs/{job_id}", status="404")] == 2
    assert told[name, labels(method="GET", route="other", status="404")] == 1
    assert told[name, labels(method="GET", route="/v1/models", status="200")] == 1
    assert told["batchmill_http_request_seconds_count", labels(method="GET", route="/v1/models")] == 1
    assert not any("BREW" in value for _, pairs in told for _, value in pairs)


def test_bug_is_counted_as_what_it_is_answered_with(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Store, "workers", broken)
    client.get("/v1/models")

    assert samples(client)["batchmill_http_requests_total", labels(method="GET", route="/v1/models", status="500")] == 1


def test_metrics_say_so_when_the_database_is_away(settings: Settings) -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/none")
    with TestClient(create_app(settings, database), raise_server_exceptions=False) as client:
        told = samples(client)
    database.dispose()

    assert told["batchmill_database_up", labels()] == 0
    assert ("batchmill_queue_depth", labels(model="demo")) not in told


def test_two_applications_share_no_metric(settings: Settings, database: Database) -> None:
    one, other = (TestClient(create_app(settings, database)) for _ in range(2))
    one.get("/health")

    name = "batchmill_http_requests_total"
    assert (name, labels(method="GET", route="/health", status="200")) in samples(one)
    assert (name, labels(method="GET", route="/health", status="200")) not in samples(other)


def test_metrics_and_health_need_no_key_and_hold_none(settings: Settings, database: Database) -> None:
    key, record = KeyStore(database).create("tenant-name")
    client = TestClient(create_app(settings.model_copy(update={"auth": "keys"}), database))
    client.get("/v1/models", headers={"authorization": f"Bearer {key}"})

    text = client.get("/metrics").text

    assert not any(secret in text for secret in (key, record.id, "tenant-name"))


def test_snapshot_reads_once_for_all_who_ask() -> None:
    now, gate, reads = 0.0, threading.Event(), []

    def read() -> int:
        gate.wait(5)
        reads.append(now)
        return len(reads)

    async def scenario() -> list[int]:
        nonlocal now
        snapshot = Snapshot(read, clock=lambda: now)
        asking = [asyncio.create_task(snapshot.get()) for _ in range(5)]
        await asyncio.sleep(0)
        asking[0].cancel()
        gate.set()
        together = await asyncio.gather(*asking[1:])
        now = 0.9
        fresh = await snapshot.get()
        now = 1.1
        return [*together, fresh, await snapshot.get()]

    assert asyncio.run(scenario()) == [1, 1, 1, 1, 1, 2]


def test_snapshot_that_takes_long_is_read_seldom() -> None:
    """Reading takes a tenth of the time at most, however often somebody asks."""
    now = 0.0

    def read() -> float:
        nonlocal now
        now += 2.0
        return now

    async def scenario() -> list[float]:
        nonlocal now
        snapshot = Snapshot(read, clock=lambda: now)
        found = [await snapshot.get()]
        for later in (10.0, 19.0, 21.0):
            now = later
            found.append(await snapshot.get())
        return found

    assert asyncio.run(scenario()) == [2.0, 2.0, 2.0, 23.0]


def test_snapshot_tells_an_error_and_tries_again() -> None:
    tries: list[int] = []

    def read() -> int:
        tries.append(0)
        if len(tries) == 1:
            raise ZeroDivisionError
        return 5

    async def scenario() -> int:
        now = 0.0
        snapshot = Snapshot(read, clock=lambda: now)
        with pytest.raises(ZeroDivisionError):
            await snapshot.get()
        now = 2.0
        return await snapshot.get()

    assert asyncio.run(scenario()) == 5
