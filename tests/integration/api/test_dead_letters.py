"""Dead letters over HTTP, on both databases: whose they are, what is told of them, and that a replay is one job."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from models.database import Database
from models.ids import parse_job_id, public_id
from models.key_store import KeyStore
from models.status import Status
from models.store import Store
from tests.integration.api.batch_making import Intake, request_line
from tests.integration.api.conftest import serving
from tests.integration.api.fakes import Worker
from tests.integration.api.test_completions import BACKGROUND, error_of
from tests.integration.api.test_operators import labels, samples
from tests.integration.store.making import new_job

CODE = "worker_crashed"
ClientOf = Callable[..., TestClient]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.dispose()


@pytest.fixture
def client_of(app: FastAPI, client: TestClient, database: Database) -> ClientOf:
    """A client with a key of a tenant. (`client` is there for its lifespan.)"""

    def client_of(tenant: str, *, is_admin: bool = False) -> TestClient:
        key, _ = KeyStore(database).create(tenant, is_admin=is_admin)
        return TestClient(app, headers={"authorization": f"Bearer {key}"}, raise_server_exceptions=False)

    return client_of


def dead(client: TestClient, worker: Worker, code: str = CODE, **changes: object) -> str:
    """The id of a dead letter of the client's."""
    id = str(client.post("/v1/completions", json=BACKGROUND | changes).json()["id"])
    worker.fail(worker.claim(parse_job_id(id)), code)
    return id


def listed(client: TestClient, **query: object) -> list[str]:
    answer = client.get("/v1/dead_letters", params=query)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    return [letter["id"] for letter in answer.json()["data"]]


def test_dead_letter_tells_how_it_ended_and_not_what_was_asked(
    client: TestClient, worker: Worker, database: Database
) -> None:
    id = dead(client, worker, prompt="a secret", metadata={"team": "a second one"})
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE jobs SET suspicion = 4, level = 3, solo_crashes = 2")

    answer = client.get("/v1/dead_letters")

    [letter] = answer.json()["data"]
    assert letter == client.get(f"/v1/dead_letters/{id}").json()
    assert (letter["id"], letter["object"], letter["tenant"], letter["status"]) == (id, "job", "default", "failed")
    assert (letter["attempts"], letter["suspicion"], letter["solo_crashes"]) == (1, 4, 2)
    assert letter["error"] == {"code": CODE, "message": f"it was {CODE}"}
    assert letter["finished_at"] >= letter["created_at"]
    assert letter["replayed_as"] is None
    assert "secret" not in answer.text
    assert "second" not in answer.text


def test_job_that_failed_by_its_own_fault_is_no_dead_letter(client: TestClient, worker: Worker) -> None:
    id = dead(client, worker, code="context_length_exceeded")

    assert listed(client) == []
    assert error_of(client.get(f"/v1/dead_letters/{id}"))[:2] == (404, "not_found")
    assert error_of(client.post(f"/v1/dead_letters/{id}/replay"))[:2] == (404, "not_found")


def test_pages_follow_from_the_last_to_fail(client: TestClient, worker: Worker) -> None:
    ids = [dead(client, worker) for _ in range(3)]

    page = client.get("/v1/dead_letters", params={"limit": 2}).json()
    rest = client.get("/v1/dead_letters", params={"limit": 2, "after": page["last_id"]}).json()

    assert [letter["id"] for letter in page["data"] + rest["data"]] == ids[::-1]
    assert (page["has_more"], rest["has_more"]) == (True, False)


def test_list_is_narrowed(app: FastAPI, client: TestClient, worker: Worker) -> None:
    crashed, full = dead(client, worker), dead(client, worker, code="out_of_memory")
    inline = {"endpoint": "/v1/completions", "completion_window": "24h", "requests": [request_line(1), request_line(2)]}
    batch = client.post("/v1/batches", json=inline).json()["id"]
    row = Intake(app, worker).read(batch)[0]
    worker.fail(worker.claim(row), CODE)
    client.post(f"/v1/dead_letters/{full}/replay")
    row_id = public_id("batch_req", row)

    assert listed(client, model="demo") == [row_id, full, crashed]
    assert listed(client, model="other") == []
    assert listed(client, error_code="out_of_memory") == [full]
    assert listed(client, batch_id=batch) == [row_id]
    assert (listed(client, replayed="true"), listed(client, replayed="false")) == ([full], [row_id, crashed])


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"error_code": "empty_prompt"}, (400, "invalid_value", "error_code")),
        ({"replayed": "perhaps"}, (400, "invalid_value", "replayed")),
        ({"batch_id": "batch_" + "0" * 32}, (404, "not_found", None)),
        ({"batch_id": "nonsense"}, (404, "not_found", None)),
        ({"after": "cmpl-" + "0" * 32}, (400, "invalid_cursor", "after")),
    ],
)
def test_list_that_cannot_be_is_refused(
    client: TestClient, query: dict[str, str], expected: tuple[int, str, str | None]
) -> None:
    assert error_of(client.get("/v1/dead_letters", params=query)) == expected


def test_replay_is_a_job_of_its_own(client: TestClient, worker: Worker, store: Store) -> None:
    id = dead(client, worker, prompt="secret", metadata={"team": "search"}, priority=8)

    answer = client.post(f"/v1/dead_letters/{id}/replay")

    replay = answer.json()
    old, new = store.jobs([parse_job_id(id), parse_job_id(replay["id"])])
    assert (answer.status_code, replay["status"], replay["retry_of"], replay["batch_id"]) == (202, "queued", id, None)
    assert new.body == old.body | {"metadata": {"team": "search", "retry_of": id}}
    assert (new.priority, new.tenant, old.status) == (8, old.tenant, Status.FAILED)
    assert "idempotent-replayed" not in answer.headers
    assert "secret" not in answer.text
    assert client.get(f"/v1/dead_letters/{id}").json()["replayed_as"] == replay["id"]
    assert client.get(f"/v1/jobs/{id}").json()["replayed_as"] == replay["id"]
    worker.complete(worker.claim(new.id))
    assert client.get(f"/v1/jobs/{replay['id']}").json()["status"] == "completed"


@pytest.mark.parametrize("route", ["dead_letters/{}/replay", "jobs/{}/retry"])
def test_what_crashed_workers_starts_as_suspect_as_it_ended(
    client: TestClient, worker: Worker, store: Store, database: Database, route: str
) -> None:
    id = dead(client, worker)
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE jobs SET suspicion = 3, level = 3, solo_crashes = 2")

    again = client.post("/v1/" + route.format(id)).json()

    assert (again["suspicion"], again["solo_crashes"], again["attempts"]) == (3, 0, 0)


def test_what_completed_is_no_suspect_the_next_time(client: TestClient, worker: Worker, database: Database) -> None:
    id = str(client.post("/v1/completions", json=BACKGROUND).json()["id"])
    worker.complete(worker.claim(parse_job_id(id)))
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE jobs SET suspicion = 1, level = 2")

    assert client.post(f"/v1/jobs/{id}/retry").json()["suspicion"] == 0


def test_row_of_a_batch_is_replayed_outside_it(app: FastAPI, client: TestClient, worker: Worker) -> None:
    inline = {"endpoint": "/v1/completions", "completion_window": "24h", "requests": [request_line(1)]}
    batch = client.post("/v1/batches", json=inline).json()["id"]
    [row] = Intake(app, worker).read(batch)
    worker.fail(worker.claim(row), CODE)
    counts = client.get(f"/v1/batches/{batch}").json()["request_counts"]

    replay = client.post(f"/v1/dead_letters/{public_id('batch_req', row)}/replay").json()
    worker.complete(worker.claim(parse_job_id(replay["id"])))

    assert (replay["batch_id"], replay["retry_of"]) == (None, public_id("batch_req", row))
    assert client.get(f"/v1/batches/{batch}").json()["request_counts"] == counts
    assert client.get(f"/v1/jobs/{replay['id']}").json()["result"]["choices"][0]["text"] == "done"


def test_replayed_at_once_by_many_over_http_it_is_one_job(app: FastAPI, worker: Worker, database: Database) -> None:
    with serving(app) as url, httpx.Client(base_url=url, timeout=30) as http:
        id = http.post("/v1/completions", json=BACKGROUND).json()["id"]
        worker.fail(worker.claim(parse_job_id(id)), CODE)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: http.post(f"/v1/dead_letters/{id}/replay"), range(8)))
        answers.append(http.post(f"/v1/dead_letters/{id}/replay"))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == len(answers) - 1
    assert Store(database).queue_depth() == {"demo": 1}


def test_replay_that_dies_too_is_what_is_replayed_next(client: TestClient, worker: Worker) -> None:
    id = dead(client, worker)
    second = client.post(f"/v1/dead_letters/{id}/replay").json()["id"]
    worker.fail(worker.claim(parse_job_id(second)), "attempts_exhausted")

    third = client.post(f"/v1/dead_letters/{id}/replay").json()

    assert (third["id"] != second, third["retry_of"]) == (True, second)
    assert listed(client, replayed="false") == []
    assert set(listed(client)) == {id, second}


def test_each_tenant_has_its_own_and_an_administrator_all(client_of: ClientOf, worker: Worker) -> None:
    mine, others, boss = client_of("a"), client_of("b"), client_of("boss", is_admin=True)
    first, second = dead(mine, worker), dead(others, worker)

    assert (listed(mine), listed(others), listed(boss)) == ([first], [second], [second, first])
    assert [letter["tenant"] for letter in boss.get("/v1/dead_letters").json()["data"]] == ["b", "a"]
    assert boss.get(f"/v1/dead_letters/{first}").json()["tenant"] == "a"
    for ask in ("GET /v1/dead_letters/{}", "POST /v1/dead_letters/{}/replay"):
        method, path = ask.format(first).split()
        assert error_of(others.request(method, path))[:2] == (404, "not_found")
    assert error_of(others.get("/v1/dead_letters", params={"after": first}))[:2] == (400, "invalid_cursor")


def test_replay_by_an_administrator_is_its_owners(client_of: ClientOf, worker: Worker) -> None:
    mine, boss = client_of("a"), client_of("boss", is_admin=True)
    id = dead(mine, worker, prompt="secret", metadata={"team": "search"})

    answer = boss.post(f"/v1/dead_letters/{id}/replay")

    assert answer.status_code == 202
    assert not {"secret", "search"} & set(answer.text.replace('"', " ").split())
    assert mine.get(f"/v1/jobs/{answer.json()['id']}").json()["status"] == "queued"
    assert error_of(boss.get(f"/v1/jobs/{answer.json()['id']}"))[:2] == (404, "not_found")


def test_metrics_count_those_that_nobody_replayed(client: TestClient, worker: Worker) -> None:
    ids = [dead(client, worker, code="out_of_memory") for _ in range(2)]
    client.post(f"/v1/dead_letters/{ids[0]}/replay")

    told = samples(client)

    assert told["batchmill_dead_letters", labels(reason="out_of_memory")] == 1
    assert told["batchmill_dead_letters", labels(reason=CODE)] == 0


def test_job_tells_of_the_crashes_it_was_in(client: TestClient, worker: Worker, database: Database) -> None:
    """What a person sees while a prompt that crashes workers is being isolated."""
    id = str(client.post("/v1/completions", json=BACKGROUND).json()["id"])
    bystander = new_job()
    Store(database).submit([bystander])
    held = [worker.claim(job_id) for job_id in (parse_job_id(id), bystander.id)]
    assert [job.attempt for job in held] == [1, 1]
    worker.claims.confirm_crash("host/test/0", successor=bystander.id)

    job = client.get(f"/v1/jobs/{id}").json()

    assert (job["status"], job["status_reason"], job["attempts"]) == ("queued", "worker_crashed", 1)
    assert (job["suspicion"], job["solo_crashes"], job["error"]) == (1, 0, None)
