"""Polling and cancelling by id."""

import asyncio
import threading
import time

import pytest
from fastapi.testclient import TestClient

from api.waiting import Watch
from models.ids import parse_job_id, uuid7
from models.status import FINAL
from models.store import Store
from tests.integration.api.fakes import Worker
from tests.integration.api.test_completions import BACKGROUND, error_of


@pytest.fixture
def job_id(client: TestClient) -> str:
    return str(client.post("/v1/completions", json=BACKGROUND).json()["id"])


def test_job_is_seen_in_every_status(client: TestClient, worker: Worker, job_id: str) -> None:
    queued = client.get(f"/v1/jobs/{job_id}").json()
    claimed = worker.claim(parse_job_id(job_id))
    running = client.get(f"/v1/jobs/{job_id}").json()
    worker.complete(claimed)
    done = client.get(f"/v1/jobs/{job_id}").json()

    assert (queued["object"], queued["id"], queued["status"], queued["result"]) == ("job", job_id, "queued", None)
    assert (running["status"], running["attempts"], running["finished_at"]) == ("in_progress", 1, None)
    assert done["status"] == "completed"
    assert done["result"]["choices"][0]["text"] == "done"
    assert done["usage"]["total_tokens"] == 5
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]


def test_failed_job_tells_its_error(client: TestClient, worker: Worker, job_id: str) -> None:
    worker.fail(worker.claim(parse_job_id(job_id)), "context_length_exceeded")

    job = client.get(f"/v1/jobs/{job_id}").json()

    assert (job["status"], job["status_reason"]) == ("failed", "context_length_exceeded")
    assert job["error"] == {"code": "context_length_exceeded", "message": "it was context_length_exceeded"}
    assert job["result"] is None


def test_wait_for_a_job_that_is_deleted_is_over(client: TestClient, store: Store) -> None:
    """Not when the waiting is: nothing will happen to it any more."""
    watch = Watch(store)

    assert asyncio.run(watch.wait(uuid7(), FINAL.__contains__, seconds=5))


def test_wait_ends_when_the_job_does(client: TestClient, worker: Worker, job_id: str) -> None:
    timer = threading.Timer(0.2, worker.finish_all)
    timer.start()
    started = time.monotonic()

    job = client.get(f"/v1/jobs/{job_id}", params={"wait": 30}).json()

    assert job["status"] == "completed"
    assert 0.15 < time.monotonic() - started < 3
    timer.join()


def test_wait_gives_up_in_time(client: TestClient, job_id: str) -> None:
    started = time.monotonic()

    job = client.get(f"/v1/jobs/{job_id}", params={"wait": 0.2}).json()

    assert job["status"] == "queued"
    assert 0.2 <= time.monotonic() - started < 1


def test_wait_until_change_ends_at_the_claim(client: TestClient, worker: Worker, job_id: str) -> None:
    timer = threading.Timer(0.1, worker.claim, [parse_job_id(job_id)])
    timer.start()

    job = client.get(f"/v1/jobs/{job_id}", params={"wait": 10, "until": "change"}).json()

    assert job["status"] == "in_progress"
    timer.join()


def test_many_wait_at_once_without_a_thread_each(client: TestClient, worker: Worker) -> None:
    """Waiting in threads, forty clients would have taken them all and the next would not have been served."""
    ids = [client.post("/v1/completions", json=BACKGROUND).json()["id"] for _ in range(60)]
    found: list[str] = []
    waiting = [
        threading.Thread(target=lambda id=id: found.append(client.get(f"/v1/jobs/{id}?wait=20").json()["status"]))
        for id in ids
    ]
    for thread in waiting:
        thread.start()

    assert client.get("/health/ready").status_code == 200
    worker.finish_all()
    for thread in waiting:
        thread.join()
    assert found == ["completed"] * 60


def test_cancelled_while_queued_is_final_at_once(client: TestClient, job_id: str) -> None:
    answer = client.post(f"/v1/jobs/{job_id}/cancel")

    assert answer.status_code == 200
    assert answer.json()["status"] == "cancelled"
    assert answer.json()["error"]["code"] == "batch_cancelled"


def test_cancelled_while_running_is_asked_of_its_owner(client: TestClient, worker: Worker, job_id: str) -> None:
    worker.claim(parse_job_id(job_id))

    answer = client.post(f"/v1/jobs/{job_id}/cancel").json()

    assert (answer["status"], answer["status_reason"]) == ("in_progress", "cancel_requested")


def test_cancelling_a_finished_job_changes_nothing(client: TestClient, worker: Worker, job_id: str) -> None:
    worker.complete(worker.claim(parse_job_id(job_id)))
    before = client.get(f"/v1/jobs/{job_id}").json()

    answer = client.post(f"/v1/jobs/{job_id}/cancel")

    assert (answer.status_code, answer.json()) == (200, before)


@pytest.mark.parametrize("bad", ["..%2Fx", "x" * 10_000, "cmpl-123", "%00", "cmpl-" + "g" * 32])
@pytest.mark.parametrize("action", ["", "/cancel"])
def test_malformed_id_is_answered_as_an_unknown_one(client: TestClient, bad: str, action: str) -> None:
    method = "POST" if action else "GET"
    headers = {"x-request-id": "same"}

    malformed = client.request(method, f"/v1/jobs/{bad}{action}", headers=headers)
    unknown = client.request(method, f"/v1/jobs/cmpl-{uuid7().hex}{action}", headers=headers)

    assert error_of(unknown) == (404, "not_found", None)
    if "%2F" not in bad:  # a slash makes it another path, which does not exist either
        assert (malformed.content, malformed.headers) == (unknown.content, unknown.headers)
    assert malformed.status_code == 404


@pytest.mark.parametrize("query", ["wait=-1", "wait=nan", "wait=soon", "wait=inf", "until=never"])
def test_bad_query_is_named(client: TestClient, job_id: str, query: str) -> None:
    answer = client.get(f"/v1/jobs/{job_id}?{query}")

    assert error_of(answer) == (400, "invalid_value", query.split("=")[0])
