"""Keys and workers over HTTP: an administrator's business."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from models.key_store import KeyStore
from tests.integration.api.fakes import Worker
from tests.integration.api.test_completions import error_of


def with_key(app: FastAPI, key: str) -> TestClient:
    return TestClient(app, headers={"authorization": f"Bearer {key}"}, raise_server_exceptions=False)


@pytest.fixture
def keys(app: FastAPI) -> KeyStore:
    keys: KeyStore = app.state.services.keys
    return keys


@pytest.fixture
def boss(app: FastAPI, keys: KeyStore) -> Iterator[TestClient]:
    """An administrator."""
    with with_key(app, keys.create("boss", is_admin=True)[0]) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/admin/keys"),
        ("POST", "/v1/admin/keys"),
        ("DELETE", "/v1/admin/keys/nothing1"),
        ("GET", "/v1/admin/workers"),
        ("POST", "/v1/admin/workers/0/drain"),
    ],
)
def test_administrators_alone_are_let_in(app: FastAPI, keys: KeyStore, method: str, path: str) -> None:
    """Not even somebody on this machine while no key is asked for: whoever made the first key would lock others out."""
    nobody = TestClient(app).request(method, path)
    client = with_key(app, keys.create("team")[0]).request(method, path)

    assert error_of(nobody)[:2] == (403, "insufficient_scope")
    assert error_of(client)[:2] == (403, "insufficient_scope")
    assert client.json()["error"]["type"] == "permission_error"


def test_key_is_made_used_and_revoked(app: FastAPI, boss: TestClient) -> None:
    made = boss.post("/v1/admin/keys", json={"name": "team", "expires_in_seconds": 3600})

    body = made.json()
    key, id = body.pop("key"), body["id"]
    assert made.headers["cache-control"] == "no-store"
    assert (body["tenant"], body["is_admin"], body["status"]) == ("team", False, "active")
    assert body["expires_at"] == body["created_at"] + 3600
    client = with_key(app, key)
    assert client.get("/v1/models").status_code == 200
    listed = boss.get("/v1/admin/keys").json()["data"]
    assert listed[0]["id"] == id
    assert key[12:] not in str(listed)

    revoked = boss.delete(f"/v1/admin/keys/{id}")

    assert revoked.json() == {"id": id, "object": "api_key", "deleted": True}
    assert error_of(client.get("/v1/models"))[:2] == (401, "invalid_api_key")
    assert boss.get("/v1/admin/keys").json()["data"][0]["status"] == "revoked"
    assert boss.delete(f"/v1/admin/keys/{id}").status_code == 200
    assert error_of(boss.delete("/v1/admin/keys/nothing1"))[:2] == (404, "not_found")


def test_keys_are_listed_by_pages(boss: TestClient, keys: KeyStore) -> None:
    for index in range(4):
        keys.create(f"team-{index}")

    first = boss.get("/v1/admin/keys", params={"limit": 3}).json()
    second = boss.get("/v1/admin/keys", params={"limit": 3, "after": first["last_id"]}).json()

    assert (first["has_more"], second["has_more"]) == (True, False)
    tenants = {entry["tenant"] for entry in first["data"] + second["data"]}
    assert tenants == {"boss", "team-0", "team-1", "team-2", "team-3"}
    assert error_of(boss.get("/v1/admin/keys", params={"limit": 0}))[:2] == (400, "invalid_limit")
    for after in ("nothing1", "\0", "x" * 9000):
        assert error_of(boss.get("/v1/admin/keys", params={"after": after})) == (400, "invalid_cursor", "after")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_required_parameter", "name"),
        ({"name": "a b"}, "invalid_value", "name"),
        ({"name": 5}, "invalid_value", "name"),
        ({"name": "a", "is_admin": "yes"}, "invalid_value", "is_admin"),
        ({"name": "a", "expires_in_seconds": 0}, "invalid_value", "expires_in_seconds"),
        ({"name": "a", "scope": "all"}, "unknown_parameter", "scope"),
    ],
)
def test_unsound_key_is_refused(boss: TestClient, body: dict[str, object], code: str, param: str) -> None:
    answer = boss.post("/v1/admin/keys", json=body)

    assert error_of(answer)[:2] == (400, code)
    assert answer.json()["error"]["param"] == param


def test_body_that_is_no_object_is_refused(boss: TestClient) -> None:
    assert error_of(boss.post("/v1/admin/keys", json=[]))[0] == 400


def test_workers_are_listed_as_they_announce_themselves(boss: TestClient, worker: Worker) -> None:
    [listed] = boss.get("/v1/admin/workers").json()["data"]

    assert (listed["id"], listed["host"], listed["model"]) == (worker.id.hex, "host", "demo")
    assert (listed["state"], listed["rows"], listed["dtype"]) == ("ready", 8, "float32")
    assert listed["heartbeat_at"] >= listed["started_at"] > 0


def test_worker_is_told_to_drain(boss: TestClient, worker: Worker) -> None:
    told = boss.post(f"/v1/admin/workers/{worker.id.hex}/drain")

    assert (told.status_code, told.json()["id"], told.json()["state"]) == (200, worker.id.hex, "draining")
    assert worker.claims.heartbeat(worker.id, lease_seconds=60) == "draining"
    assert boss.get("/v1/admin/workers").json()["data"][0]["state"] == "draining"


@pytest.mark.parametrize("worker_id", ["0" * 32, "nobody", "0" * 33])
def test_worker_that_does_not_live_is_not_told(boss: TestClient, worker_id: str) -> None:
    assert error_of(boss.post(f"/v1/admin/workers/{worker_id}/drain"))[:2] == (404, "not_found")
