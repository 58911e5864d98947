"""What the service says of what retention deleted: 410 to its owner, 404 to everyone else and later on."""

import pytest
from celery import Celery
from celery.result import AsyncResult
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.app import create_app
from api.housekeeping import Housekeeper
from api.services import Services
from models import aged_batches
from models.ids import parse_batch_id, parse_job_id
from models.retention import Keep, Retention
from models.settings import Settings
from tests.integration.api.batch_making import Intake, Json, request_line, stored_file
from tests.integration.api.fakes import Worker
from tests.integration.api.test_completions import error_of
from tests.waiting import wait_until

GONE = (410, "result_expired")
NOW = 0.001  # seconds: what is final is old enough
RESPONSE = {"model": "demo", "input": "what was asked", "background": True}


@pytest.fixture
def services(app: FastAPI) -> Services:
    services: Services = app.state.services
    return services


def clear(services: Services, **keep: float) -> dict[str, int]:
    """One round of the housekeeper."""
    retention = Retention(services.database, services.blobs, Keep(**keep))
    return dict(Housekeeper(retention, services.blobs).clear())


@pytest.fixture
def job_id(client: TestClient, worker: Worker) -> str:
    """A response that was completed."""
    id = str(client.post("/v1/responses", json=RESPONSE).json()["id"])
    worker.complete(worker.claim(parse_job_id(id)))
    return id


@pytest.fixture
def batch(client: TestClient, app: FastAPI, worker: Worker) -> Json:
    """A batch of two lines, of which one failed."""
    body = {"input_file_id": stored_file(app, [request_line(1), request_line(2)]), "endpoint": "/v1/completions"}
    batch_id = client.post("/v1/batches", json=body | {"completion_window": "1d"}).json()["id"]
    first, second = Intake(app, worker).read(batch_id)
    worker.complete(worker.claim(first))
    worker.fail(worker.claim(second), "out_of_memory")
    found: Json = client.get(f"/v1/batches/{batch_id}").json()
    return found


def test_expired_result_is_told_to_its_owner_alone(client: TestClient, services: Services, job_id: str) -> None:
    assert clear(services, results=NOW) == {"job results": 1}

    for path in (f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}/result", f"/v1/responses/{job_id}"):
        assert error_of(client.get(path))[:2] == GONE
    assert error_of(client.post(f"/v1/jobs/{job_id}/retry"))[:2] == GONE
    assert error_of(client.patch(f"/v1/jobs/{job_id}", json={"metadata": {"a": "b"}}))[:2] == GONE
    key, _ = services.keys.create("other")
    foreign = client.get(f"/v1/jobs/{job_id}", headers={"authorization": f"Bearer {key}"})
    assert error_of(foreign)[:2] == (404, "not_found")


def test_expired_job_is_listed_without_its_result(client: TestClient, services: Services, job_id: str) -> None:
    clear(services, results=NOW)

    [job] = client.get("/v1/jobs", params={"include": "result,request"}).json()["data"]

    assert (job["id"], job["status"], job["status_reason"]) == (job_id, "completed", "result_expired")
    assert (job["result"], job["usage"]) == (None, None)


def test_trace_may_be_deleted_and_then_nothing_is_known(client: TestClient, services: Services, job_id: str) -> None:
    clear(services, results=NOW)

    assert client.delete(f"/v1/jobs/{job_id}").json()["deleted"] is True
    assert error_of(client.get(f"/v1/jobs/{job_id}"))[:2] == (404, "not_found")


def test_trace_is_forgotten_after_its_time(client: TestClient, services: Services, job_id: str) -> None:
    clear(services, results=NOW, traces=0.0)

    assert error_of(client.get(f"/v1/jobs/{job_id}"))[:2] == (404, "not_found")


def test_files_of_an_expired_batch_are_gone_and_its_counts_stay(
    client: TestClient, services: Services, batch: Json
) -> None:
    assert clear(services, results=NOW) == {"batches": 1, "batch rows": 2}

    for file in (batch["output_file_id"], batch["error_file_id"]):
        assert error_of(client.get(f"/v1/files/{file}/content"))[:2] == GONE
        assert error_of(client.get(f"/v1/files/{file}"))[:2] == GONE
    for path in ("results", "requests"):
        assert error_of(client.get(f"/v1/batches/{batch['id']}/{path}"))[:2] == GONE
    assert error_of(client.post(f"/v1/batches/{batch['id']}/retry_failed"))[:2] == GONE
    shown = client.get(f"/v1/batches/{batch['id']}").json()
    assert shown | {"first_errors": []} == batch | {"first_errors": []}
    assert client.delete(f"/v1/batches/{batch['id']}").json()["deleted"] is True


def test_download_of_a_batch_that_is_going_does_not_look_whole(
    client: TestClient, services: Services, batch: Json
) -> None:
    """From the moment its time is over, not only when its rows are gone."""
    with services.database.transaction() as connection:
        aged_batches.expire(connection, [parse_batch_id(batch["id"])])

    assert error_of(client.get(f"/v1/files/{batch['output_file_id']}/content"))[:2] == GONE


def test_result_stays_as_it_is_when_its_input_is_gone(client: TestClient, services: Services, job_id: str) -> None:
    before = client.get(f"/v1/responses/{job_id}").json()

    assert clear(services, inputs=NOW)["job inputs"] == 1

    assert client.get(f"/v1/responses/{job_id}").json() == before
    for answer in (client.get(f"/v1/responses/{job_id}/input_items"), client.post(f"/v1/jobs/{job_id}/retry")):
        assert error_of(answer)[:2] == (410, "input_expired")
    assert "input" not in client.get(f"/v1/jobs/{job_id}", params={"include": "request"}).json()["request"]


def test_replay_of_a_request_whose_result_expired_says_so(
    client: TestClient, services: Services, worker: Worker
) -> None:
    """The key still holds the job: running it anew would be a second execution that nobody asked for."""
    body, headers = {"model": "demo", "prompt": "p", "background": True}, {"idempotency-key": "k"}
    id = client.post("/v1/completions", json=body, headers=headers).json()["id"]
    worker.complete(worker.claim(parse_job_id(id)))
    clear(services, results=NOW)

    assert error_of(client.post("/v1/completions", json=body, headers=headers))[:2] == GONE


def test_celery_is_told_that_a_result_expired(services: Services, settings: Settings, job_id: str) -> None:
    clear(services, results=NOW)
    app = Celery(backend=f"worker.result_backend:JobsBackend+{services.database.engine.url}")

    result = AsyncResult(job_id, app=app)

    assert result.state == "FAILURE"
    assert "result_expired" in str(result.result)


def test_service_deletes_by_its_settings(
    settings: Settings, services: Services, client: TestClient, job_id: str
) -> None:
    """Its housekeeper begins with the service."""
    short = settings.model_copy(update={"keep_results_days": 1e-8})

    with TestClient(create_app(short, services.database)):
        wait_until(lambda: client.get(f"/v1/jobs/{job_id}").status_code == GONE[0])
