"""What takes long is done on threads: the event loop answers everybody else meanwhile."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.integration.api.batch_making import Intake, request_line, stored_file
from tests.integration.api.fakes import Worker

BODIES: Mapping[str, Mapping[str, Any]] = {
    "/v1/completions": {"model": "demo", "prompt": "hello", "background": True},
    "/v1/chat/completions": {
        "model": "demo",
        "messages": [{"role": "user", "content": "hello"}],
        "background": True,
    },
    "/v1/responses": {"model": "demo", "input": "hello", "background": True},
}


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each answer rendered by name: whether it was on the event loop."""
    found: list[bool] = []

    def noting(work: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any) -> Any:  # noqa: ANN401 (whatever it renders)
            try:
                asyncio.get_running_loop()
                found.append(True)
            except RuntimeError:
                found.append(False)
            return work(*args)

        return noted

    from api.jobs import polling as job_polling
    from api.routes import batch_rows, jobs, stored, stored_chats

    for module, name in (
        *((job_polling, "job_body"), (batch_rows, "result_line"), (jobs, "background_body")),
        *((stored, "stored_body"), (stored_chats, "stored_body")),
    ):
        monkeypatch.setattr(module, name, noting(getattr(module, name)))
    return found


@pytest.mark.parametrize("endpoint", BODIES)
def test_result_read_by_its_id_is_rendered_on_a_thread(client: TestClient, rendered: list[bool], endpoint: str) -> None:
    job_id = client.post(endpoint, json=BODIES[endpoint]).json()["id"]

    assert client.get(f"{endpoint}/{job_id}").status_code == 200
    assert rendered == [False]


def test_results_of_a_poll_are_rendered_on_a_thread(client: TestClient, worker: Worker, rendered: list[bool]) -> None:
    worker.finish_all()
    job_id = client.post("/v1/completions", json=BODIES["/v1/completions"]).json()["id"]

    assert client.get(f"/v1/jobs/{job_id}/result?wait=5").status_code == 200
    assert client.post("/v1/jobs/poll", json={"ids": [job_id], "include": ["result"]}).status_code == 200
    assert rendered == [False, False]


def test_results_of_a_batch_are_rendered_on_a_thread(
    client: TestClient, app: FastAPI, worker: Worker, rendered: list[bool]
) -> None:
    file_id = stored_file(app, [request_line(1)])
    body = {"input_file_id": file_id, "endpoint": "/v1/completions", "completion_window": "1d"}
    batch_id = client.post("/v1/batches", json=body).json()["id"]
    [row] = Intake(app, worker).read(batch_id)
    worker.complete(worker.claim(row))

    assert len(client.get(f"/v1/batches/{batch_id}/results").json()["data"]) == 1
    assert rendered == [False]
