"""The native job routes: submit, list, poll, change, repeat, delete, and the bare result."""

import threading
from typing import Any

import pytest
from fastapi.testclient import TestClient

from models.batch_store import BatchStore
from models.database import Database
from models.ids import parse_job_id, public_id, uuid7
from models.listing import JobFilter, Page
from models.records import NewJob
from models.status import Status
from models.store import Store
from tests.integration.api.fakes import Worker
from tests.integration.api.test_completions import BACKGROUND, BODY, CHAT, error_of
from tests.integration.store.making import REFUSAL, lines, new_job, new_jobs, whole_batch

COMPLETION = {"endpoint": "/v1/completions", "body": BODY}
UNKNOWN = "cmpl-" + "0" * 32


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


def submitted(client: TestClient, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 (any field)
    answer = client.post("/v1/jobs", json=COMPLETION | changes)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def listed(client: TestClient, **query: Any) -> list[str]:  # noqa: ANN401 (any filter)
    answer = client.get("/v1/jobs", params=query)
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["data"]]


def finish(worker: Worker, job_id: str, text: str = "done") -> None:
    worker.complete(worker.claim(parse_job_id(job_id)), text)


def batch_row(database: Database) -> str:
    [row] = lines(1, body={"prompt": "p", "seed": 1})
    whole_batch(BatchStore(database), [row])
    return public_id("batch_req", row.id)


# --- submitting


def test_submitted_job_is_stored_with_what_stands_beside_its_body(client: TestClient, store: Store) -> None:
    job = submitted(client, priority=7, ttl=60, metadata={"team": "a"}, max_attempts=2)

    record = store.job(parse_job_id(job["id"]))
    assert record is not None
    assert (record.priority, record.max_attempts, record.body["prompt"]) == (7, 2, "hello")
    assert (job["status"], job["priority"], job["max_attempts"], job["metadata"]) == ("queued", 7, 2, {"team": "a"})
    assert job["expires_at"] - job["created_at"] in (59, 60, 61)
    assert "result" not in job


def test_job_of_any_endpoint_is_submitted(client: TestClient) -> None:
    chat = submitted(client, endpoint="/v1/chat/completions", body=CHAT)
    response = submitted(client, endpoint="/v1/responses", body={"model": "demo", "input": "hello"})

    assert chat["id"].startswith("chatcmpl-")
    assert response["id"].startswith("resp_")
    assert chat["priority"] == 4


def test_many_jobs_are_stored_all_or_none(client: TestClient, store: Store) -> None:
    good = client.post("/v1/jobs", json={"jobs": [COMPLETION, COMPLETION | {"priority": 9}]})
    bad = client.post(
        "/v1/jobs", json={"jobs": [COMPLETION, {"endpoint": "/v1/completions", "body": {"model": "demo"}}]}
    )

    assert [job["priority"] for job in good.json()["data"]] == [4, 9]
    assert error_of(bad) == (400, "missing_required_parameter", "jobs.1.body.prompt")
    assert len(store.list_jobs("default", JobFilter(), Page(10))[0]) == 2


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ([], "invalid_json", None),
        ({}, "invalid_endpoint", "endpoint"),
        ({"endpoint": "/v1/embeddings", "body": BODY}, "invalid_endpoint", "endpoint"),
        ({"endpoint": ["/v1/completions"], "body": BODY}, "invalid_endpoint", "endpoint"),
        ({"endpoint": "/v1/completions"}, "missing_required_parameter", "body"),
        (COMPLETION | {"body": []}, "missing_required_parameter", "body"),
        (COMPLETION | {"surprise": 1}, "unknown_parameter", "surprise"),
        (COMPLETION | {"priority": 999}, "invalid_value", "priority"),
        (COMPLETION | {"ttl": 0}, "invalid_value", "ttl"),
        (COMPLETION | {"max_attempts": 0}, "invalid_value", "max_attempts"),
        (COMPLETION | {"metadata": {"k" * 65: "v"}}, "invalid_metadata", "metadata"),
        (COMPLETION | {"webhook": {}}, "unsupported_parameter", "webhook"),
        (COMPLETION | {"priority": 1, "body": BODY | {"priority": 1}}, "invalid_value", "priority"),
        (COMPLETION | {"body": BODY | {"temperature": 3}}, "invalid_value", "body.temperature"),
        (COMPLETION | {"body": BODY | {"surprise": 3}}, "unknown_parameter", "body.surprise"),
        ({"jobs": []}, "invalid_value", "jobs"),
        ({"jobs": {}}, "invalid_value", "jobs"),
        ({"jobs": [COMPLETION] * 1001}, "invalid_value", "jobs"),
        ({"jobs": [COMPLETION], "priority": 1}, "unknown_parameter", "jobs"),
        ({"jobs": [7]}, "invalid_json", "jobs.0"),
        ({"jobs": [COMPLETION | {"idempotency_key": "k"}]}, "unsupported_parameter", "jobs.0.idempotency_key"),
    ],
)
def test_bad_submission_is_named(client: TestClient, body: object, code: str, param: str | None) -> None:
    assert error_of(client.post("/v1/jobs", json=body)) == (400, code, param)


def test_job_of_an_unknown_model_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/jobs", json=COMPLETION | {"body": BODY | {"model": "nobody"}})

    assert error_of(answer) == (404, "model_not_found", "model")


@pytest.mark.parametrize("body", [COMPLETION, {"jobs": [COMPLETION, COMPLETION]}])
def test_submission_repeated_with_its_key_is_the_first_one(client: TestClient, body: dict[str, Any]) -> None:
    headers = {"idempotency-key": "k"}
    first = client.post("/v1/jobs", json=body, headers=headers)
    second = client.post("/v1/jobs", json=body, headers=headers)
    other = client.post("/v1/jobs", json=COMPLETION | {"priority": 9}, headers=headers)
    longer = client.post("/v1/jobs", json={"jobs": [COMPLETION] * 3}, headers=headers)

    assert second.json() == first.json()
    assert second.headers["idempotent-replayed"] == "true"
    assert (other.status_code, longer.status_code) == (422, 422)


def test_key_in_the_body_of_a_job_is_as_good_as_the_header(client: TestClient) -> None:
    first, second = submitted(client, idempotency_key="k"), submitted(client, idempotency_key="k")

    assert first["id"] == second["id"]


def test_refused_key_stores_none_of_many(client: TestClient, store: Store) -> None:
    headers = {"idempotency-key": "k"}
    client.post("/v1/jobs", json={"jobs": [COMPLETION]}, headers=headers)

    answer = client.post("/v1/jobs", json={"jobs": [COMPLETION] * 3}, headers=headers)

    assert error_of(answer) == (422, "idempotency_key_reused", None)
    assert len(store.list_jobs("default", JobFilter(), Page(10))[0]) == 1


# --- listing


def test_list_is_paged_newest_first(client: TestClient) -> None:
    ids = [submitted(client)["id"] for _ in range(5)]

    first = client.get("/v1/jobs", params={"limit": 2}).json()
    second = client.get("/v1/jobs", params={"limit": 2, "after": first["last_id"]}).json()

    assert [job["id"] for job in first["data"] + second["data"]] == ids[:0:-1]
    assert (first["object"], first["first_id"], first["last_id"], first["has_more"]) == ("list", ids[4], ids[3], True)
    assert listed(client, after=second["last_id"]) == ids[:1]
    assert listed(client, order="asc", limit=2) == ids[:2]


def test_list_is_narrowed_by_every_filter(client: TestClient, worker: Worker) -> None:
    done = submitted(client, metadata={"team": "a", "run": "1"})["id"]
    chat = submitted(client, endpoint="/v1/chat/completions", body=CHAT, metadata={"team": "a"})["id"]
    finish(worker, done)

    assert listed(client, status="completed") == [done]
    assert listed(client, endpoint="/v1/chat/completions") == [chat]
    assert listed(client, **{"metadata[team]": "a"}) == [chat, done]
    assert listed(client, **{"metadata[team]": "a", "metadata[run]": "1"}) == [done]
    assert listed(client, model="demo\0") == []
    assert listed(client, created_before=1) == listed(client, created_after=4e9) == []
    assert listed(client, created_after=1, model="demo") == [chat, done]


def test_list_of_a_batch_shows_its_rows(client: TestClient, database: Database) -> None:
    batch_id = whole_batch(BatchStore(database), lines(3))
    submitted(client)

    page = client.get("/v1/jobs", params={"batch_id": public_id("batch", batch_id), "order": "asc"}).json()

    assert [job["custom_id"] for job in page["data"]] == ["request-0", "request-1", "request-2"]


def test_listed_jobs_hold_their_results_only_where_wanted(client: TestClient, worker: Worker) -> None:
    finish(worker, submitted(client)["id"])

    [plain] = client.get("/v1/jobs").json()["data"]
    [whole] = client.get("/v1/jobs", params={"include": "request,result"}).json()["data"]

    assert "result" not in plain
    assert plain["usage"]["total_tokens"] == 5
    assert (whole["result"]["choices"][0]["text"], whole["request"]["prompt"]) == ("done", "hello")


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ({"limit": 0}, "invalid_limit", "limit"),
        ({"limit": 10**6}, "invalid_limit", "limit"),
        ({"limit": "ten"}, "invalid_limit", "limit"),
        ({"after": "nobody"}, "invalid_cursor", "after"),
        ({"after": UNKNOWN}, "invalid_cursor", "after"),
        ({"status": "'; DROP TABLE jobs; --"}, "invalid_value", "status"),
        ({"order": "random"}, "invalid_value", "order"),
        ({"endpoint": "/v1/embeddings"}, "invalid_endpoint", "endpoint"),
        ({"include": "everything"}, "invalid_value", "include"),
        ({"created_after": "yesterday"}, "invalid_value", "created_after"),
        ({"created_after": 1e300}, "invalid_value", "created_after"),
        ({f"metadata[{index}]": "v" for index in range(17)}, "invalid_metadata", "metadata"),
    ],
)
def test_bad_list_query_is_named(client: TestClient, query: dict[str, Any], code: str, param: str) -> None:
    assert error_of(client.get("/v1/jobs", params=query)) == (400, code, param)


def test_batch_of_a_list_must_be_there_and_have_no_metadata(client: TestClient, database: Database) -> None:
    batch_id = public_id("batch", whole_batch(BatchStore(database), lines(1)))

    assert error_of(client.get("/v1/jobs", params={"batch_id": f"batch_{uuid7().hex}"}))[:2] == (404, "not_found")
    both = client.get("/v1/jobs", params={"batch_id": batch_id, "metadata[k]": "v"})
    assert error_of(both) == (400, "invalid_value", "metadata")


# --- reading


def test_one_job_tells_its_place_in_the_queue(client: TestClient, worker: Worker) -> None:
    first, second = submitted(client)["id"], submitted(client)["id"]

    assert client.get(f"/v1/jobs/{second}").json()["queue_position"] == 1
    finish(worker, first)
    assert client.get(f"/v1/jobs/{first}").json()["queue_position"] is None
    assert client.get(f"/v1/jobs/{second}").json()["queue_position"] == 0


def test_running_job_names_its_worker_and_its_wait(client: TestClient, worker: Worker) -> None:
    job_id = submitted(client)["id"]
    worker.claim(parse_job_id(job_id))

    job = client.get(f"/v1/jobs/{job_id}").json()

    assert job["worker_id"] == worker.id.hex
    assert job["timings"]["queue_ms"] >= 0


def test_request_is_shown_where_wanted(client: TestClient) -> None:
    job_id = submitted(client)["id"]

    job = client.get(f"/v1/jobs/{job_id}", params={"include": "request"}).json()

    assert job["request"]["prompt"] == "hello"
    assert "result" not in job


def test_preferred_wait_is_a_wait(client: TestClient, worker: Worker) -> None:
    job_id = submitted(client)["id"]
    timer = threading.Timer(0.1, worker.finish_all)
    timer.start()

    job = client.get(f"/v1/jobs/{job_id}", headers={"prefer": "wait=20"}).json()

    assert job["status"] == "completed"
    timer.join()


def test_row_of_a_batch_is_read_as_soon_as_it_is_committed(
    client: TestClient, worker: Worker, database: Database
) -> None:
    row = batch_row(database)
    finish(worker, row)

    job = client.get(f"/v1/jobs/{row}").json()

    assert (job["id"], job["status"], job["result"]["choices"][0]["text"]) == (row, "completed", "done")
    assert client.get(f"/v1/completions/{row}").json()["choices"][0]["text"] == "done"


@pytest.mark.parametrize(("path", "body"), [("/v1/completions", BODY), ("/v1/chat/completions", CHAT)])
def test_result_is_what_the_endpoint_would_have_answered(
    client: TestClient, worker: Worker, path: str, body: dict[str, Any]
) -> None:
    worker.finish_all()
    answered = client.post(path, json=body).json()

    assert client.get(f"/v1/jobs/{answered['id']}/result").json() == answered


def test_result_of_an_unfinished_job_is_asked_for_later(client: TestClient) -> None:
    answer = client.get(f"/v1/jobs/{submitted(client)['id']}/result")

    assert error_of(answer) == (409, "result_not_ready", None)
    assert (answer.headers["x-should-retry"], int(answer.headers["retry-after"]) <= 60) == ("true", True)


@pytest.mark.parametrize(("code", "status"), [("context_length_exceeded", 400), ("worker_crashed", 500)])
def test_result_of_a_failed_job_is_its_error(client: TestClient, worker: Worker, code: str, status: int) -> None:
    job_id = submitted(client)["id"]
    worker.fail(worker.claim(parse_job_id(job_id)), code)

    assert error_of(client.get(f"/v1/jobs/{job_id}/result")) == (status, code, None)


def test_result_can_be_waited_for(client: TestClient, worker: Worker) -> None:
    job_id = submitted(client)["id"]
    timer = threading.Timer(0.1, worker.finish_all)
    timer.start()

    assert client.get(f"/v1/jobs/{job_id}/result", params={"wait": 20}).json()["choices"][0]["text"] == "done"
    timer.join()


# --- polling


def polled(client: TestClient, ids: list[str], **fields: Any) -> dict[str, Any]:  # noqa: ANN401 (any field)
    answer = client.post("/v1/jobs/poll", json={"ids": ids, **fields})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_poll_tells_of_many_jobs_in_the_order_asked_for(client: TestClient, worker: Worker, database: Database) -> None:
    first, second, row = submitted(client)["id"], submitted(client)["id"], batch_row(database)
    finish(worker, first)

    poll = polled(client, [row, second, "nobody", first, UNKNOWN, first])

    assert [(job["id"], job["status"]) for job in poll["data"]] == [
        (row, "queued"),
        (second, "queued"),
        (first, "completed"),
    ]
    assert poll["unknown"] == ["nobody", UNKNOWN]
    assert "result" not in poll["data"][2]


def test_poll_brings_results_where_wanted(client: TestClient, worker: Worker) -> None:
    job_id = submitted(client)["id"]
    finish(worker, job_id)

    [job] = polled(client, [job_id], include=["result"])["data"]

    assert job["result"]["choices"][0]["text"] == "done"


@pytest.mark.parametrize("until", ["change", "terminal"])
def test_poll_waits_for_the_first_of_many(client: TestClient, worker: Worker, store: Store, until: str) -> None:
    jobs = new_jobs(1000, body={"prompt": "p", "seed": 1})
    store.submit(jobs)
    claimed = worker.claim(jobs[500].id)
    timer = threading.Timer(0.2, worker.complete, [claimed])
    timer.start()

    poll = polled(client, [job.id.hex for job in jobs], wait=30, until=until)

    timer.join()
    by_status = {status: [job["id"] for job in poll["data"] if job["status"] == status] for status in Status}
    assert by_status[Status.COMPLETED] == [public_id("/v1/completions", jobs[500].id)]
    assert len(by_status[Status.QUEUED]) == 999


def test_poll_does_not_wait_for_what_is_there(client: TestClient, worker: Worker) -> None:
    done, waiting = submitted(client)["id"], submitted(client)["id"]
    finish(worker, done)

    assert len(polled(client, [done, waiting], wait=60, until="terminal")["data"]) == 2
    assert len(polled(client, [done], wait=60)["data"]) == 1
    assert polled(client, [UNKNOWN], wait=60) == {"object": "list", "data": [], "unknown": [UNKNOWN]}


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_required_parameter", "ids"),
        ({"ids": []}, "invalid_value", "ids"),
        ({"ids": [UNKNOWN] * 1001}, "invalid_value", "ids"),
        ({"ids": [7]}, "invalid_value", "ids.0"),
        ({"ids": [UNKNOWN], "wait": -1}, "invalid_value", "wait"),
        ({"ids": [UNKNOWN], "until": "never"}, "invalid_value", "until"),
        ({"ids": [UNKNOWN], "include": ["all"]}, "invalid_value", "include.0"),
        ({"ids": [UNKNOWN], "surprise": 1}, "unknown_parameter", "surprise"),
    ],
)
def test_bad_poll_is_named(client: TestClient, body: dict[str, Any], code: str, param: str) -> None:
    assert error_of(client.post("/v1/jobs/poll", json=body)) == (400, code, param)


# --- changing, repeating, deleting


def test_queued_job_is_moved_ahead(client: TestClient, store: Store) -> None:
    job_id = submitted(client)["id"]
    patch = {"priority": 9, "ttl": 60, "metadata": {"k": "v"}}

    job = client.patch(f"/v1/jobs/{job_id}", json=patch).json()

    assert (job["priority"], job["metadata"], job["expires_at"] is not None) == (9, {"k": "v"}, True)
    assert listed(client, **{"metadata[k]": "v"}) == [job_id]


def test_running_job_keeps_its_priority(client: TestClient, worker: Worker) -> None:
    job_id = submitted(client)["id"]
    worker.claim(parse_job_id(job_id))

    refused = client.patch(f"/v1/jobs/{job_id}", json={"priority": 9, "metadata": {"k": "v"}})
    described = client.patch(f"/v1/jobs/{job_id}", json={"metadata": {"k": "w"}})

    assert error_of(refused) == (409, "job_not_queued", None)
    assert refused.headers["x-should-retry"] == "false"
    assert (described.json()["metadata"], described.json()["priority"]) == ({"k": "w"}, 4)


@pytest.mark.parametrize(
    ("patch", "code", "param"),
    [
        ({"priority": 10}, "invalid_value", "priority"),
        ({"priority": "9"}, "invalid_value", "priority"),
        ({"ttl": 0}, "invalid_value", "ttl"),
        ({"metadata": {"k": 1}}, "invalid_metadata", "metadata.k"),
        ({"metadata": {str(index): "" for index in range(17)}}, "invalid_metadata", "metadata"),
        ({"status": "completed"}, "unknown_parameter", "status"),
    ],
)
def test_bad_change_is_named(client: TestClient, patch: dict[str, Any], code: str, param: str) -> None:
    assert error_of(client.patch(f"/v1/jobs/{UNKNOWN}", json=patch)) == (400, code, param)


def test_finished_job_is_submitted_again_as_it_came(client: TestClient, worker: Worker, store: Store) -> None:
    first = submitted(client, priority=8, ttl=60, metadata={"k": "v"}, max_attempts=3)["id"]
    worker.fail(worker.claim(parse_job_id(first)), "out_of_memory")

    answer = client.post(f"/v1/jobs/{first}/retry")

    again = answer.json()
    old, new = store.jobs([parse_job_id(first), parse_job_id(again["id"])])
    assert (answer.status_code, again["status"], again["retry_of"], again["id"] != first) == (
        202,
        "queued",
        first,
        True,
    )
    assert (new.priority, new.max_attempts, new.model, new.deadline is not None) == (8, 3, "demo", True)
    assert new.body | {"metadata": {}} == old.body | {"metadata": {}}
    assert listed(client, **{"metadata[retry_of]": first}) == [again["id"]]
    assert old.status is Status.FAILED


def test_unfinished_job_is_not_repeated(client: TestClient) -> None:
    answer = client.post(f"/v1/jobs/{submitted(client)['id']}/retry")

    assert error_of(answer) == (409, "job_not_final", None)


def test_refused_request_is_not_repeated(client: TestClient, store: Store) -> None:
    job = new_job(error=REFUSAL)
    store.submit([job])

    assert error_of(client.post(f"/v1/jobs/{job.id}/retry"))[:2] == (409, "job_refused")


def test_retry_repeated_with_its_key_is_one_retry(client: TestClient) -> None:
    job_id = submitted(client)["id"]
    client.post(f"/v1/jobs/{job_id}/cancel")

    answers = [client.post(f"/v1/jobs/{job_id}/retry", headers={"idempotency-key": "k"}).json() for _ in range(2)]

    assert answers[0]["id"] == answers[1]["id"]


def test_deleted_job_is_unknown(client: TestClient, worker: Worker) -> None:
    job_id = submitted(client)["id"]
    refused = client.delete(f"/v1/jobs/{job_id}")
    finish(worker, job_id)

    deleted = client.delete(f"/v1/jobs/{job_id}")

    assert error_of(refused) == (409, "job_not_final", None)
    assert refused.headers["x-should-retry"] == "false"
    assert deleted.json() == {"id": job_id, "object": "job.deleted", "deleted": True}
    assert client.get(f"/v1/jobs/{job_id}").status_code == 404


def test_row_of_a_batch_is_not_deleted_alone(client: TestClient, worker: Worker, database: Database) -> None:
    row = batch_row(database)
    finish(worker, row)

    assert error_of(client.delete(f"/v1/jobs/{row}")) == (409, "job_of_batch", None)


# --- tenants

ROUTES = [
    ("GET", "/v1/jobs/{id}", None),
    ("GET", "/v1/jobs/{id}/result", None),
    ("GET", "/v1/jobs/{id}?wait=1", None),
    ("GET", "/v1/jobs/{id}/events", None),
    ("POST", "/v1/jobs/{id}/cancel", None),
    ("POST", "/v1/jobs/{id}/retry", None),
    ("PATCH", "/v1/jobs/{id}", {"priority": 1}),
    ("PATCH", "/v1/jobs/{id}", {"metadata": {"k": "v"}}),
    ("DELETE", "/v1/jobs/{id}", None),
    ("GET", "/v1/completions/{id}", None),
    ("POST", "/v1/completions/{id}/cancel", None),
    ("DELETE", "/v1/completions/{id}", None),
    ("GET", "/v1/chat/completions/{id}", None),
    ("POST", "/v1/chat/completions/{id}", {"metadata": {"k": "v"}}),
    ("POST", "/v1/chat/completions/{id}/cancel", None),
    ("DELETE", "/v1/chat/completions/{id}", None),
    ("GET", "/v1/chat/completions/{id}/messages", None),
    ("GET", "/v1/responses/{id}", None),
    ("GET", "/v1/responses/{id}?stream=true", None),
    ("POST", "/v1/responses/{id}/cancel", None),
    ("DELETE", "/v1/responses/{id}", None),
    ("GET", "/v1/responses/{id}/input_items", None),
]


def request(client: TestClient, method: str, path: str, body: object) -> tuple[int, bytes, Any]:
    answer = client.request(method, path, json=body, headers={"x-request-id": "same"})
    return answer.status_code, answer.content, answer.headers


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_foreign_id_is_answered_as_an_unknown_and_as_a_malformed_one(
    client: TestClient, store: Store, method: str, path: str, body: object
) -> None:
    endpoint = next((f"/v1/{kind}" for kind in ("chat/completions", "responses") if kind in path), "/v1/completions")
    foreign = NewJob(uuid7(), "demo", endpoint, {"prompt": "p"}, tenant="other")
    store.submit([foreign])
    store.cancel(foreign.id)

    answers = [request(client, method, path.format(id=id), body) for id in (foreign.id, uuid7(), "no-id", "%00")]

    assert answers[0][0] == 404
    assert all(answer == answers[0] for answer in answers)
    assert store.job(foreign.id) is not None


@pytest.mark.parametrize(("method", "path", "body"), [route for route in ROUTES if "/v1/jobs" not in route[1]])
def test_id_of_another_endpoint_is_unknown(
    client: TestClient, store: Store, method: str, path: str, body: object
) -> None:
    endpoint = "/v1/responses" if "completions" in path else "/v1/completions"
    job = NewJob(uuid7(), "demo", endpoint, {"prompt": "p"})
    store.submit([job])
    store.cancel(job.id)

    assert request(client, method, path.format(id=job.id), body)[0] == 404
    assert store.job(job.id) is not None


def test_foreign_jobs_are_neither_listed_nor_polled(client: TestClient, store: Store) -> None:
    foreign = new_job(tenant="other", body={"metadata": {"k": "v"}})
    store.submit([foreign])

    assert listed(client) == listed(client, **{"metadata[k]": "v"}) == []
    assert polled(client, [foreign.id.hex])["unknown"] == [foreign.id.hex]
    assert error_of(client.get("/v1/jobs", params={"after": foreign.id.hex})) == (400, "invalid_cursor", "after")


def test_background_completion_is_listed(client: TestClient) -> None:
    created = client.post("/v1/completions", json=BACKGROUND).json()

    assert listed(client) == [created["id"]]
