"""Another tenant's id is answered byte for byte as one that nobody has, on every route there is or will be."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from starlette.routing import BaseRoute

from api.app import create_app
from models.database import Database
from models.ids import parse_job_id, public_id, uuid7
from models.key_store import KeyStore
from models.settings import Settings, load_settings
from tests.integration.api.batch_making import Intake, request_line
from tests.integration.api.fakes import Worker
from tests.integration.api.test_completions import BACKGROUND, CHAT

VARYING = frozenset({"x-request-id", "date"})
TOLD = ("id", "status", "priority", "metadata", "counts", "bytes")  # of an entry, that a request may change
# Not a tenant's: models are everyone's, keys an administrator's.
EVERYONES = frozenset({"/v1/models/{name:path}", "/v1/admin/keys/{key_id}", "/v1/admin/workers/{worker_id}/drain"})
# Of query parameters too: a wait or a stream begins before the job is looked at by the same code.
QUERIES: tuple[dict[str, str], ...] = ({}, {"wait": "0.05", "stream": "true", "include": "request", "after": "-1"})
BODIES: dict[str, Any] = {
    "PATCH /v1/jobs/{job_id}": {"priority": 5},
    "POST /v1/chat/completions/{completion_id}": {"metadata": {"team": "search"}},
    "POST /v1/batches/{batch_id}/retry_failed": {},
}


@dataclass(frozen=True, slots=True)
class Owned:
    """What one tenant has, by the kinds of ids that routes take; each with an id of that kind that nobody has."""

    client: TestClient
    ids: dict[str, str]

    def unknown(self, kind: str) -> str:
        prefix = self.ids[kind][: -len(uuid7().hex)]
        return prefix + uuid7().hex


def routes_of(routes: list[BaseRoute]) -> Iterator[APIRoute]:
    """Every route, those of included routers too."""
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        elif (router := getattr(route, "original_router", None)) is not None:
            yield from routes_of(router.routes)


def service_routes() -> list[tuple[str, str]]:
    """Method and template of every route below /v1."""
    settings = load_settings(redis_url="redis://127.0.0.1:1/0", blob_url="memory://tenancy")
    app = create_app(settings, Database("sqlite:////nowhere/at/all.db"))
    found = [(method, route.path) for route in routes_of(app.routes) for method in sorted(route.methods or ())]
    documented = {path for path in app.openapi()["paths"]}
    assert documented <= {path.replace(":path}", "}") for _, path in found}, "a router is not looked into"
    return [(method, path) for method, path in found if path.startswith("/v1/")]


ROUTES = service_routes()
WITH_ID = [(method, path) for method, path in ROUTES if "{" in path and path not in EVERYONES]
LISTS = [path for method, path in ROUTES if method == "GET" and "{" not in path and not path.startswith("/v1/admin")]


def kinds_of(path: str) -> list[str]:
    """What ids a route can be given: a job's route by any prefix, an endpoint's by its own."""
    name = path[path.index("{") + 1 : path.index("}")]
    if name == "completion_id":
        return ["chat"] if path.startswith("/v1/chat/") else ["completion"]
    return {
        "job_id": ["completion", "chat", "response", "row"],
        "dead_letter_id": ["dead"],
        "response_id": ["response"],
        "batch_id": ["batch", "running"],
        "file_id": ["file", "output", "partial"],
    }[name]  # a new name: say here what it is the id of


@pytest.fixture
def owner(app: FastAPI, worker: Worker) -> Iterator[Owned]:
    """A tenant with a finished job of each kind, a finished batch, and files."""
    with TestClient(app, headers=bearer(app, "owner"), raise_server_exceptions=False) as client:
        yield Owned(client, make(app, client, worker))


@pytest.fixture
def stranger(app: FastAPI, owner: Owned) -> TestClient:
    """Another tenant, once the first one has all it has."""
    return TestClient(app, headers=bearer(app, "stranger"), raise_server_exceptions=False)


def bearer(app: FastAPI, tenant: str) -> dict[str, str]:
    keys: KeyStore = app.state.services.keys
    return {"authorization": f"Bearer {keys.create(tenant)[0]}"}


def make(app: FastAPI, client: TestClient, worker: Worker) -> dict[str, str]:
    def created(answer: httpx.Response) -> str:
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    jobs = {
        "completion": created(client.post("/v1/completions", json=BACKGROUND)),
        "chat": created(client.post("/v1/chat/completions", json=CHAT | {"background": True, "store": True})),
        "response": created(client.post("/v1/responses", json={"model": "demo", "input": "hi", "background": True})),
    }
    file = created(client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", b"{}\n")}))
    inline = {"endpoint": "/v1/completions", "completion_window": "24h"}
    batch = created(client.post("/v1/batches", json=inline | {"requests": [request_line(1)]}))
    [row] = Intake(app, worker).read(batch)
    running = created(client.post("/v1/batches", json=inline | {"requests": [request_line(1), request_line(2)]}))
    [first, _] = Intake(app, worker).read(running)
    for job_id in [*map(parse_job_id, jobs.values()), row, first]:
        worker.complete(worker.claim(job_id))
    dead = created(client.post("/v1/completions", json=BACKGROUND))
    worker.fail(worker.claim(parse_job_id(dead)), "worker_crashed")
    output = client.get(f"/v1/batches/{batch}").json()["output_file_id"]
    partial = client.get(f"/v1/batches/{running}").json()["partial_output_file_id"]
    return jobs | {
        "dead": dead,
        "file": file,
        "batch": batch,
        "row": public_id("batch_req", row),
        "output": output,
        "running": running,
        "partial": partial,
    }


def told(answer: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    """All that a client can see of an answer, but for what differs each time."""
    return answer.status_code, {k: v for k, v in answer.headers.items() if k not in VARYING}, answer.content


def shown_to(owner: Owned) -> list[tuple[object, ...]]:
    """What the owner sees in lists, but for progress, which tells the time."""
    lists = [owner.client.get(path).json().get("data", []) for path in LISTS]
    return [tuple(entry.get(name) for name in TOLD) for entries in lists for entry in entries]


def asked(client: TestClient, method: str, path: str, id: str, query: dict[str, str]) -> httpx.Response:
    name = path[path.index("{") : path.index("}") + 1]
    body = BODIES.get(f"{method} {path}") if method != "GET" else None
    return client.request(method, path.replace(name, id), json=body, params=query)


def test_there_are_routes_to_test() -> None:
    assert len(WITH_ID) >= 20
    assert {"/v1/jobs", "/v1/batches", "/v1/files", "/v1/queue", "/v1/usage"} <= set(LISTS)


def test_every_route_asks_for_a_key(settings: Settings, database: Database) -> None:
    """Before it looks at anything else: an id that cannot be, a body that is none."""
    app = create_app(settings.model_copy(update={"auth": "keys"}), database)
    client = TestClient(app, raise_server_exceptions=False)

    answers = {(method, path): client.request(method, path, content=b"{") for method, path in ROUTES}

    assert {key: answer.status_code for key, answer in answers.items() if answer.status_code != 401} == {}
    assert {answer.json()["error"]["code"] for answer in answers.values()} == {"missing_api_key"}


@pytest.mark.parametrize(("method", "path"), WITH_ID)
def test_foreign_id_is_answered_as_an_unknown_one(owner: Owned, stranger: TestClient, method: str, path: str) -> None:
    """And nothing is done all the same."""
    before = shown_to(owner)
    for kind in kinds_of(path):
        for query in QUERIES:
            foreign = told(asked(stranger, method, path, owner.ids[kind], query))
            unknown = told(asked(stranger, method, path, owner.unknown(kind), query))

            assert foreign == unknown, kind
            assert foreign[0] == 404, kind

    assert shown_to(owner) == before
    for kind in kinds_of(path):
        assert asked(owner.client, method, path, owner.ids[kind], {}).status_code != 404, kind


@pytest.mark.parametrize("path", LISTS)
def test_list_shows_nothing_of_another_tenant(owner: Owned, stranger: TestClient, path: str) -> None:
    params = {"metadata[team]": "search"} if path == "/v1/chat/completions" else {}
    for query in ({}, params, {"limit": "1"}):
        answer = stranger.get(path, params=query)

        assert not [kind for kind, id in owner.ids.items() if id[-32:] in answer.text]
        body = answer.json()
        if body["object"] == "list" and path != "/v1/models":
            assert (body["data"], body["has_more"]) == ([], False)


def test_owner_finds_all_it_has_in_the_lists(owner: Owned) -> None:
    """So that the test above is of lists that would show something."""
    shown = "".join(owner.client.get(path).text for path in ("/v1/jobs", "/v1/batches", "/v1/files"))

    assert [kind for kind, id in owner.ids.items() if id[-32:] not in shown] == ["row"]
    assert owner.ids["chat"] in owner.client.get("/v1/chat/completions").text
    assert owner.ids["dead"] in owner.client.get("/v1/dead_letters").text


ELSEWHERE: dict[str, tuple[str, Callable[[TestClient, str], httpx.Response]]] = {
    "input file of a batch": (
        "file",
        lambda client, id: client.post(
            "/v1/batches",
            json={"input_file_id": id, "endpoint": "/v1/completions", "completion_window": "24h"},
        ),
    ),
    "ids to poll": ("completion", lambda client, id: client.post("/v1/jobs/poll", json={"ids": [id]})),
    "batch of jobs": ("batch", lambda client, id: client.get("/v1/jobs", params={"batch_id": id})),
    "cursor of jobs": ("completion", lambda client, id: client.get("/v1/jobs", params={"after": id})),
    "batch of dead letters": ("batch", lambda client, id: client.get("/v1/dead_letters", params={"batch_id": id})),
    "cursor of dead letters": ("dead", lambda client, id: client.get("/v1/dead_letters", params={"after": id})),
    "cursor of chats": ("chat", lambda client, id: client.get("/v1/chat/completions", params={"after": id})),
    "cursor of batches": ("batch", lambda client, id: client.get("/v1/batches", params={"after": id})),
    "cursor of files": ("file", lambda client, id: client.get("/v1/files", params={"after": id})),
}


@pytest.mark.parametrize("where", ELSEWHERE)
def test_foreign_id_elsewhere_is_answered_as_an_unknown_one(owner: Owned, stranger: TestClient, where: str) -> None:
    kind, ask = ELSEWHERE[where]
    foreign, unknown = owner.ids[kind], owner.unknown(kind)

    status, headers, content = told(ask(stranger, foreign))
    again, others, body = told(ask(stranger, unknown))

    assert (status, headers) == (again, others)
    assert content.replace(foreign.encode(), b"ID") == body.replace(unknown.encode(), b"ID")
    assert ask(owner.client, foreign).content != content


def test_usage_and_queue_are_ones_own(owner: Owned, stranger: TestClient) -> None:
    mine, others = owner.client.get("/v1/usage").json(), stranger.get("/v1/usage").json()

    assert (mine["jobs"]["completed"], others["jobs"]["total"], others["total_tokens"]) == (5, 0, 0)


def test_same_idempotency_key_of_two_tenants_is_two(owner: Owned, stranger: TestClient) -> None:
    headers = {"idempotency-key": "once"}

    mine = owner.client.post("/v1/completions", json=BACKGROUND, headers=headers)
    others = stranger.post("/v1/completions", json=BACKGROUND, headers=headers)

    assert mine.json()["id"] != others.json()["id"]
    assert "idempotent-replayed" not in others.headers
