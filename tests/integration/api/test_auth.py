"""Who is let in: with and without keys, on loopback and from elsewhere, on both databases."""

import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event

from api import keyring
from api.app import create_app
from api.auth import CallerDep
from models.database import Database
from models.errors import StorageFull
from models.key_store import KeyStore
from models.keys import new_key
from models.settings import Settings
from tests.integration.api.test_completions import error_of

ELSEWHERE, HERE = "http://192.0.2.1", "http://127.0.0.1"
WHO = "/who"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Both databases, where the other tests of the service use one."""
    database = Database(database_url)
    yield database
    database.dispose()


@pytest.fixture
def keys(database: Database) -> KeyStore:
    return KeyStore(database)


def service(settings: Settings, database: Database, auth: str) -> FastAPI:
    """The service, with a route that tells who called."""
    app = create_app(settings.model_copy(update={"auth": auth}), database)

    @app.get(WHO)
    async def who(caller: CallerDep) -> dict[str, Any]:
        return {"tenant": caller.tenant, "is_admin": caller.is_admin}

    return app


def asks(app: FastAPI, key: str | None = None, *, base_url: str = HERE, **headers: str) -> TestClient:
    """A client on an address, with a key."""
    given = {} if key is None else {"authorization": f"Bearer {key}"}
    return TestClient(app, base_url=base_url, headers=given | headers, raise_server_exceptions=False)


@pytest.mark.parametrize("auth", ["auto", "open"])
@pytest.mark.parametrize("key", [None, "EMPTY", "sk-" + "x" * 48])
def test_open_door_takes_any_key_and_none(settings: Settings, database: Database, auth: str, key: str | None) -> None:
    """The official client always sends some key. Nobody is an administrator without one of ours."""
    app = service(settings, database, auth)

    assert asks(app, key).get(WHO).json() == {"tenant": "default", "is_admin": False}


@pytest.mark.parametrize("auth", ["auto", "open", "keys"])
@pytest.mark.parametrize("base_url", [HERE, ELSEWHERE])
def test_key_selects_its_tenant(
    settings: Settings, database: Database, keys: KeyStore, auth: str, base_url: str
) -> None:
    app = service(settings, database, auth)
    key, admin_key = keys.create("team")[0], keys.create("boss", is_admin=True)[0]

    assert asks(app, key, base_url=base_url).get(WHO).json() == {"tenant": "team", "is_admin": False}
    assert asks(app, admin_key, base_url=base_url).get(WHO).json() == {"tenant": "boss", "is_admin": True}


@pytest.mark.parametrize(
    ("auth", "base_url", "any_key"), [("auto", ELSEWHERE, False), ("auto", HERE, True), ("keys", HERE, False)]
)
def test_closed_door_asks_for_a_key(
    settings: Settings, database: Database, keys: KeyStore, auth: str, base_url: str, any_key: bool
) -> None:
    if any_key:
        keys.create("team")
    app = service(settings, database, auth)

    missing, foreign = asks(app, base_url=base_url).get(WHO), asks(app, "EMPTY", base_url=base_url).get(WHO)

    assert error_of(missing)[:2] == (401, "missing_api_key")
    assert missing.headers["www-authenticate"] == "Bearer"
    assert error_of(foreign)[:2] == (401, "invalid_api_key")


@pytest.mark.parametrize("scheme", ["Basic dXNlcjpwYXNz", "Bearer", "Bearer ", "bm_no_scheme"])
def test_header_without_a_bearer_is_no_key(settings: Settings, database: Database, scheme: str) -> None:
    app = service(settings, database, "keys")

    answer = TestClient(app, headers={"authorization": scheme}).get(WHO)

    assert error_of(answer)[:2] == (401, "missing_api_key")


@pytest.mark.parametrize("auth", ["auto", "open", "keys"])
def test_wrong_revoked_and_expired_keys_look_the_same(
    settings: Settings, database: Database, keys: KeyStore, auth: str
) -> None:
    """Where no key is needed too: a key of our form means a tenant, whose work must not land before everyone."""
    app = service(settings, database, auth)
    good, _ = keys.create("team")
    revoked, record = keys.create("team")
    keys.revoke(record.id)
    expired, _ = keys.create("team", lasts=timedelta(seconds=-1))
    unknown, wrong_secret = new_key(), good[:11] + new_key()[11:]

    answers = [asks(app, key).get(WHO) for key in (unknown, wrong_secret, revoked, expired)]

    assert {error_of(answer)[:2] for answer in answers} == {(401, "invalid_api_key")}
    assert len({answer.content for answer in answers}) == 1
    assert good[12:] not in answers[0].text
    assert asks(app, good).get(WHO).status_code == 200


@pytest.mark.parametrize("header", ["x-forwarded-for", "x-real-ip", "forwarded", "x-forwarded-host", "host"])
def test_headers_of_proxies_open_no_door(settings: Settings, database: Database, header: str) -> None:
    app = service(settings, database, "auto")

    answer = asks(app, base_url=ELSEWHERE, **{header: "127.0.0.1"}).get(WHO)

    assert error_of(answer)[:2] == (401, "missing_api_key")


def test_health_needs_no_key_and_everything_below_v1_does(settings: Settings, database: Database) -> None:
    client = asks(service(settings, database, "keys"))

    assert client.get("/health").status_code == 200
    assert client.get("/version").status_code == 200
    assert client.get("/v1/models").status_code == 401
    assert client.post("/v1/completions", content=b"{").status_code == 401


def test_key_costs_one_look_for_many_requests(
    settings: Settings, database: Database, keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(keyring.Keyring.__init__, "__defaults__", (lambda: now,))
    app, (key, record) = service(settings, database, "keys"), keys.create("team")
    client = asks(app, key)
    client.get(WHO)
    statements: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))

    assert [client.get(WHO).status_code for _ in range(20)] == [200] * 20
    assert statements == []

    keys.revoke(record.id)
    now += keyring.CACHE_SECONDS
    assert client.get(WHO).status_code == 401


def test_first_key_closes_the_door(
    settings: Settings, database: Database, keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(keyring.Keyring.__init__, "__defaults__", (lambda: now,))
    client = asks(service(settings, database, "auto"))
    assert client.get(WHO).status_code == 200

    keys.create("team")
    now += keyring.CACHE_SECONDS

    assert client.get(WHO).status_code == 401


def test_invented_keys_do_not_fill_the_memory(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "MAX_CACHED", 3)
    app = service(settings, database, "keys")

    for _ in range(10):
        asks(app, new_key()).get(WHO)

    assert len(app.state.services.keyring._found) == 3


def test_full_disk_turns_no_good_key_away(
    settings: Settings,
    database: Database,
    keys: KeyStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    key, _ = keys.create("team")

    def full(*_: object) -> None:
        raise StorageFull

    monkeypatch.setattr(KeyStore, "touch", full)
    with caplog.at_level(logging.WARNING):
        assert asks(service(settings, database, "keys"), key).get(WHO).status_code == 200

    assert [record.__dict__["action"] for record in caplog.records if record.name == "api.keyring"] == [
        "key_touch_failed"
    ]
