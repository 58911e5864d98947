"""What a load balancer, an operator and a lost client see."""

from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.app import app_from_environment, create_app
from models.database import Database
from models.errors import DatabaseUnavailable
from models.settings import Settings
from models.store import Store
from tests.integration.api.conftest import NO_REDIS
from tests.integration.api.fakes import Worker
from tests.integration.api.test_completions import BACKGROUND, error_of


@pytest.mark.parametrize("path", ["/health", "/health/live"])
def test_live_asks_nobody(client: TestClient, path: str) -> None:
    assert client.get(path).json() == {"status": "ok"}


def test_ready_without_redis_and_workers_says_so(client: TestClient) -> None:
    answer = client.get("/health/ready")

    body = answer.json()
    assert answer.status_code == 200
    assert (body["status"], body["database"], body["migrations"]) == ("ready", "ok", "ok")
    assert (body["redis"], body["workers"], len(body["warnings"])) == ("degraded", 0, 2)


def test_ready_counts_live_workers(client: TestClient, worker: Worker) -> None:
    assert client.get("/health/ready").json()["workers"] == 1


def test_not_ready_before_the_migrations(settings: Settings, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/empty.db")
    with TestClient(create_app(settings, database), raise_server_exceptions=False) as client:
        ready, posted = client.get("/health/ready"), client.post("/v1/completions", json=BACKGROUND)
    database.dispose()

    assert ready.status_code == 503
    assert ready.json()["migrations"] == "run `batchmill db upgrade`"
    assert error_of(posted)[0] == 503


def test_not_ready_without_a_database(settings: Settings) -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/none")
    with TestClient(create_app(settings, database), raise_server_exceptions=False) as client:
        ready, posted = client.get("/health/ready"), client.post("/v1/completions", json=BACKGROUND)
    database.dispose()

    assert (ready.status_code, ready.json()["database"]) == (503, "unavailable")
    assert error_of(posted)[:2] == (503, "database_unavailable")
    assert posted.headers["retry-after"] == "2"
    assert "127.0.0.1" not in posted.text


def test_version_is_told(client: TestClient) -> None:
    assert client.get("/version").json()["version"]


def test_models_are_those_of_live_workers(client: TestClient, worker: Worker) -> None:
    [model] = client.get("/v1/models").json()["data"]

    assert (model["id"], model["object"], model["workers"], model["max_model_len"]) == ("demo", "model", 1, 128)
    assert client.get("/v1/models/demo").json() == model
    assert error_of(client.get("/v1/models/other"))[:2] == (404, "model_not_found")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("PUT", "/v1/completions", 405, "method_not_allowed"),
        ("TRACE", "/v1/completions", 405, "method_not_allowed"),
        ("POST", "/v1/completions/", 404, "not_found"),
    ],
)
def test_router_refuses_in_the_same_shape(client: TestClient, method: str, path: str, status: int, code: str) -> None:
    answer = client.request(method, path)

    assert error_of(answer)[:2] == (status, code)
    assert status != 405 or answer.headers["allow"] == "POST"


def test_sound_request_id_is_kept_and_another_replaced(client: TestClient) -> None:
    kept = client.get("/v1/nothing", headers={"x-request-id": "req-1"})
    replaced = client.get("/health", headers={"x-request-id": "two words"})

    assert kept.headers["x-request-id"] == "req-1"
    assert replaced.headers["x-request-id"].startswith("req_")


def test_bug_is_answered_without_its_text(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(Store, "workers", broken)
    answer = client.get("/v1/models")

    assert error_of(answer)[:2] == (500, "internal_error")
    assert "secret" not in answer.text


def test_wait_survives_a_database_that_comes_back(
    client: TestClient, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, failures = Store.statuses, iter([DatabaseUnavailable(), DatabaseUnavailable()])

    def flaky(store: Store, ids: list[object]) -> object:
        for failure in failures:
            raise failure
        return whole(store, ids)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "statuses", flaky)
    worker.finish_all()

    assert client.post("/v1/completions", json=BACKGROUND | {"background": False}).status_code == 200


def test_network_address_is_refused_unless_open(settings: Settings, app: FastAPI, database: Database) -> None:
    """The second wall: a server started by hand on 0.0.0.0 never asked refuse_unsafe_bind."""
    open_app = create_app(settings.model_copy(update={"auth": "open"}), database)
    closed = TestClient(app, base_url="http://192.0.2.1", raise_server_exceptions=False)
    opened = TestClient(open_app, base_url="http://192.0.2.1")

    assert error_of(closed.get("/v1/models"))[:2] == (401, "missing_api_key")
    assert closed.get("/health").status_code == 200
    assert opened.get("/v1/models").status_code == 200


def test_app_is_built_from_the_environment(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("REDIS_URL", NO_REDIS)

    app = app_from_environment()

    assert TestClient(app).get("/health").status_code == 200
    app.state.services.database.dispose()


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/batches", "GET, POST"),
        ("/v1/jobs/018f0000000070008000000000000001", "DELETE, GET, PATCH"),
        ("/v1/chat/completions", "GET, POST"),
        ("/health", "GET"),
    ],
)
def test_refused_method_is_told_all_that_are_allowed(client: TestClient, path: str, allowed: str) -> None:
    answer = client.put(path)

    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
