"""The rows of the table of refusals that are more than a body sent to one of three routes: what is called, and how it
must be answered. And the rows that cannot apply, each with the reason."""

import gzip
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import orjson
from fastapi.testclient import TestClient
from sqlalchemy import event

from api.app import create_app
from models.database import Database
from models.ids import parse_file_id, parse_job_id, uuid7
from tests.integration.api.batch_making import Intake, request_line, stored_file
from tests.integration.api.refusal_stage import JOB, WINDOW, Call, File, Stage, chunk, head, raw, url_of
from tests.integration.api.test_completions import Answer
from tests.unit.api.forms import BOUNDARY, encoded, upload

FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}
ELSEWHERE = "http://192.0.2.1"
MALFORMED = ("..%2fx", "x" * 10_000, "not-a-uuid", "%00")
UNKNOWN = uuid7().hex

REASONS = {
    42: "guided decoding by regular expressions does not exist: its fields are unknown_parameter, as B47",
    43: "nor does guided decoding by schemas: response_format json_schema is unsupported_parameter, as B48",
    52: "a first request in flight is waited for by its row's lock, so nobody is told of it (models/idempotency.py)",
    54: "there are no quotas yet",
    55: "there are no rate limits yet",
    56: "there is no high-water mark yet: what the database takes is accepted",
    61: "there are no webhooks yet: the field is unsupported_parameter, as B48",
}


# --- who calls ---------------------------------------------------------------------------------------------------


def _with_dead_key(kind: str) -> Callable[[Stage], Answer]:
    def send(stage: Stage) -> Answer:
        key, record = stage.keys().create("team", lasts=timedelta(seconds=-1 if kind == "expired" else 60))
        if kind == "revoked":
            stage.keys().revoke(record.id)
        key = key[:-4] + "AAAA" if kind == "wrong" else key
        return stage.guarded(key).get("/v1/models")

    return send


def _as_nobody_from_elsewhere(**headers: str) -> Callable[[Stage], Answer]:
    def send(stage: Stage) -> Answer:
        return stage.guarded(None, auth="auto", base_url=ELSEWHERE, headers=headers).get("/v1/models")

    return send


def _foreign(kind: str) -> Callable[[Stage], Answer]:
    """Somebody else's id answers byte for byte as one that nobody has."""

    def send(stage: Stage) -> Answer:
        path = {"job": "/v1/jobs/{}", "file": "/v1/files/{}", "batch": "/v1/batches/{}"}[kind]
        made = {
            "job": lambda: stage.created(),
            "file": lambda: stored_file(stage.app, [request_line(1)]),
            "batch": lambda: stage.created("/v1/batches"),
        }[kind]()
        stranger = stage.guarded(stage.keys().create("stranger")[0])
        foreign, unknown = stranger.get(path.format(made)), stranger.get(path.format(f"{made[:-32]}{UNKNOWN}"))
        assert foreign.content == unknown.content
        return foreign

    return send


def _malformed(template: str, id: str) -> Callable[[Stage], Answer]:
    """No table is asked for what cannot be there."""

    def send(stage: Stage) -> Answer:
        database, statements = Database(url_of(stage.database).get_secret_value()), list[str]()
        app = create_app(stage.settings.model_copy(update={"auth": "open"}), database)
        event.listen(database.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
        answer = TestClient(app).get(template.format(id))  # not started: nothing else asks the database
        database.dispose()
        assert statements == []
        return answer

    return send


# --- raw bytes ---------------------------------------------------------------------------------------------------

BOMB = gzip.compress(b"[" * (64 << 20))
CHUNKED = "Transfer-Encoding: chunked"


# --- files and batches -------------------------------------------------------------------------------------------


def _uploads(filename: str = "in.jsonl", *, purpose: str | None = "batch") -> Callable[[Stage], Answer]:
    def send(stage: Stage) -> Answer:
        parts = [part for part in upload(purpose=purpose or "", filename=filename) if purpose or part[0] != "purpose"]
        answer = stage.client.post("/v1/files", content=encoded(parts), headers=FORM)
        if answer.status_code == 200:  # B26: the name is text to be shown, and never a path
            shown, id = answer.json()["filename"], parse_file_id(answer.json()["id"])
            assert shown.isprintable()
            assert 0 < len(shown) <= 255
            names = [path.name for path in (stage.settings.state_dir / "files").rglob("*") if path.is_file()]
            assert names == [str(id)]
        return answer

    return send


def _too_large(stage: Stage) -> Answer:
    with TestClient(stage.service(max_file_bytes=2000)) as client:
        answer = client.post("/v1/files", content=encoded(upload(b"x" * 3000)), headers=FORM)
    assert [path for path in (stage.settings.state_dir / "files").rglob("*") if path.is_file()] == []
    return answer


def _batch(**change: Any) -> Callable[[Stage], Answer]:  # noqa: ANN401 (any field)
    return lambda stage: stage.client.post("/v1/batches", json=WINDOW | {"requests": [request_line(1)]} | change)


def _batch_of(kind: str) -> Callable[[Stage], Answer]:
    def send(stage: Stage) -> Answer:
        purpose = "user_data" if kind == "purpose" else "batch"
        tenant = "somebody" if kind == "tenant" else "default"
        file_id = stored_file(stage.app, [request_line(1)], purpose=purpose, tenant=tenant)
        if kind == "deleted":
            stage.client.delete(f"/v1/files/{file_id}")
        return stage.client.post("/v1/batches", json=WINDOW | {"input_file_id": file_id})

    return send


def _line_that_does_not_fit(stage: Stage) -> Answer:
    batch_id = stage.created("/v1/batches", requests=[request_line(1), request_line(2)])
    first, second = Intake(stage.app, stage.worker).read(batch_id)
    stage.worker.fail(stage.worker.claim(first), "context_length_exceeded")
    stage.worker.complete(stage.worker.claim(second))
    batch = stage.client.get(f"/v1/batches/{batch_id}").json()
    assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    errors = stage.client.get(f"/v1/files/{batch['error_file_id']}/content")
    [line] = map(orjson.loads, errors.text.splitlines())
    assert (line["custom_id"], line["response"]["status_code"]) == ("request-1", 400)
    assert line["response"]["body"]["error"]["code"] == "context_length_exceeded"
    return errors


def _delete_input_of_live_batch(stage: Stage) -> Answer:
    batch_id = stage.created("/v1/batches")
    file_id = stage.client.get(f"/v1/batches/{batch_id}").json()["input_file_id"]
    return stage.client.delete(f"/v1/files/{file_id}")


def _content(**headers: str) -> Callable[[Stage], Answer]:
    def send(stage: Stage) -> Answer:
        file_id = stored_file(stage.app, [request_line(1)])
        answer = stage.client.get(f"/v1/files/{file_id}/content", headers=headers)
        assert answer.headers["content-type"] == "application/jsonl"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-disposition"].startswith("attachment; ")
        assert len(answer.content) == (4 if "range" in headers else int(answer.headers["content-length"]))
        return answer

    return send


# --- jobs --------------------------------------------------------------------------------------------------------


def _found_out_by_the_engine(code: str, **field: Any) -> Callable[[Stage], Answer]:  # noqa: ANN401 (any field)
    def send(stage: Stage) -> Answer:
        stage.worker.finish_all(code)
        return stage.client.post("/v1/completions", json=JOB | {"background": False} | field)

    return send


def _twice(**change: Any) -> Callable[[Stage], Answer]:  # noqa: ANN401 (any field)
    def send(stage: Stage) -> Answer:
        key = {"idempotency-key": "night-1"}
        first = stage.client.post("/v1/completions", json=JOB, headers=key)
        second = stage.client.post("/v1/completions", json=JOB | change, headers=key)
        if second.status_code == 200:
            assert second.headers["idempotent-replayed"] == "true"
            assert second.json()["id"] == first.json()["id"]
        return second

    return send


def _cancel_finished_job(stage: Stage) -> Answer:
    job_id = stage.created()
    stage.worker.complete(stage.worker.claim(parse_job_id(job_id)))
    answer = stage.client.post(f"/v1/jobs/{job_id}/cancel")
    assert answer.json()["status"] == "completed"
    return answer


def _cancel_finished_batch(stage: Stage) -> Answer:
    batch_id = stage.created("/v1/batches")
    [job_id] = Intake(stage.app, stage.worker).read(batch_id)
    stage.worker.complete(stage.worker.claim(job_id))
    return stage.client.post(f"/v1/batches/{batch_id}/cancel")


def _output_of_unfinished_batch(stage: Stage) -> Answer:
    batch_id = stage.created("/v1/batches")
    assert stage.client.get(f"/v1/batches/{batch_id}").json()["output_file_id"] is None
    return stage.client.get("/v1/files/None/content")


def _odd_text(stage: Stage) -> Answer:
    """The token ids are the model's; of its bytes what every database keeps as text is shown."""
    job_id = stage.created(return_token_ids=True)
    stage.worker.complete(stage.worker.claim(parse_job_id(job_id)), "a\0b\N{REPLACEMENT CHARACTER}")
    answer = stage.client.get(f"/v1/completions/{job_id}")
    [choice] = answer.json()["choices"]
    shown = "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"
    assert (choice["text"], choice["token_ids"]) == (shown, [5, 6])
    return answer


def _gets(path: str, method: str = "GET") -> Callable[[Stage], Answer]:
    return lambda stage: stage.client.request(method, path.format(job=stage.created()))


def _lines(*changes: Mapping[str, object]) -> bytes:
    lines: list[dict[str, Any]] = [{**request_line(number), **change} for number, change in enumerate(changes)]
    kept = [{name: value for name, value in line.items() if value is not None} for line in lines]
    return b"".join(orjson.dumps(line) + b"\n" for line in kept)


CALLS = [
    Call("B1", lambda stage: stage.guarded(None).get("/v1/models"), 401, "missing_api_key"),
    *(Call(f"B2 {kind}", _with_dead_key(kind), 401, "invalid_api_key") for kind in ("wrong", "revoked", "expired")),
    Call(
        "B3",
        lambda stage: stage.guarded(stage.keys().create("team")[0]).get("/v1/admin/keys"),
        403,
        "insufficient_scope",
    ),
    *(Call(f"B4 {kind}", _foreign(kind), 404, "not_found") for kind in ("job", "file", "batch")),
    *(
        Call(f"B5 {template} {id[:20]}", _malformed(template, id), 404, "not_found")
        for template in ("/v1/jobs/{}", "/v1/responses/{}", "/v1/files/{}", "/v1/batches/{}", "/v1/dead_letters/{}")
        for id in MALFORMED
    ),
    Call(
        "B15 bomb",
        raw(head("Content-Encoding: gzip", "Connection: close", f"Content-Length: {len(BOMB)}"), BOMB),
        415,
        "unsupported_encoding",
    ),
    Call("B16 announced", raw(head("Content-Length: 99999999"), b"[" * 1000), 413, "request_too_large"),
    Call("B16 chunked", raw(head(CHUNKED), *[chunk(b"x" * 65536)] * 100), 413, "request_too_large"),
    Call("B17", _too_large, 413, "file_too_large"),
    Call("B24 endpoint", _batch(endpoint="/v1/embeddings"), 400, "invalid_endpoint"),
    Call("B24 window", _batch(completion_window="soon"), 400, "invalid_completion_window"),
    Call("B25 none", _uploads(purpose=None), 400, "invalid_purpose"),
    Call("B25 unknown", _uploads(purpose="fun"), 400, "invalid_purpose"),
    *(
        Call(f"B26 {name[:8]!r}", _uploads(name), 200)
        for name in ("../../etc/passwd", "CON", "n" * 4096, "\u202eexe.txt")
    ),
    *(Call(f"B27 {kind}", _batch_of(kind), 404, "not_found") for kind in ("tenant", "deleted")),
    Call("B27 purpose", _batch_of("purpose"), 400, "invalid_file"),
    Call("B31 vocabulary", _found_out_by_the_engine("invalid_token_id", prompt=[10**6]), 400, "invalid_token_id"),
    Call("B32", _found_out_by_the_engine("context_length_exceeded"), 400, "context_length_exceeded"),
    Call("B33", _line_that_does_not_fit, 200),
    Call(
        "B41 vocabulary",
        _found_out_by_the_engine("invalid_logit_bias", logit_bias={"1000000": 1}),
        400,
        "invalid_logit_bias",
    ),
    Call("B50", _twice(), 200),
    Call("B51", _twice(max_tokens=9), 422, "idempotency_key_reused"),
    Call("B57 job", _cancel_finished_job, 200),
    Call("B57 batch", _cancel_finished_batch, 409, "batch_not_cancellable"),
    Call("B58", _delete_input_of_live_batch, 409, "file_in_use"),
    Call("B59 job", _gets("/v1/jobs/{job}"), 200),
    Call("B59 result", _gets("/v1/jobs/{job}/result"), 409, "result_not_ready"),
    Call("B59 batch", _output_of_unfinished_batch, 404, "not_found"),
    *(
        Call(f"B60 {path} {limit}", _gets(f"{path}?limit={limit}"), 400, "invalid_limit")
        for path in ("/v1/jobs", "/v1/files", "/v1/batches", "/v1/chat/completions", "/v1/dead_letters")
        for limit in ("0", "1000000", "-1", "x")
    ),
    *(
        Call(f"B60 {path} {after}", _gets(f"{path}?after={after}"), 400, "invalid_cursor")
        for path in ("/v1/jobs", "/v1/files", "/v1/batches", "/v1/chat/completions", "/v1/dead_letters")
        for after in ("nonsense", "1'%20OR%20'1'='1")
    ),
    Call("B60 filter", _gets("/v1/batches?status=x'%20OR%201=1--"), 400, "invalid_value"),
    Call("B60 filter of dead letters", _gets("/v1/dead_letters?error_code=x'%20OR%201=1--"), 400, "invalid_value"),
    Call("B64 HEAD", _gets("/v1/jobs", "HEAD"), 405),
    *(Call(f"B64 {method}", _gets("/v1/jobs", method), 405, "method_not_allowed") for method in ("PUT", "TRACE")),
    Call("B64 path", _gets("/v1/nowhere"), 404, "not_found"),
    Call("B64 root", _gets("/"), 404, "not_found"),
    Call(
        "B65 silence",
        raw(head("Content-Length: 1000"), b'{"model"', GAP_SECONDS=0.2),
        408,
        "request_timeout",
    ),
    Call(
        "B65 byte by byte",
        raw(head("Content-Length: 1000"), *[b"{"] * 20, pause_seconds=0.05, GAP_SECONDS=5.0, WHOLE_SECONDS=0.4),
        408,
        "request_timeout",
    ),
    Call("B66 long", raw(head(f"X-A: {'a' * 65536}", path="GET /v1/models")), 431, "headers_too_large"),
    Call("B66 many", raw(head(*["X-A: a"] * 200, path="GET /v1/models")), 431, "headers_too_large"),
    Call("B66 without end", raw(*[b"GET / HTTP/1.1\r\nX-A: "], *[b"a" * 8192] * 100), 431, "headers_too_large"),
    *(
        Call(f"B67 {name}", _as_nobody_from_elsewhere(**{name: "127.0.0.1"}), 401, "missing_api_key")
        for name in ("host", "x-forwarded-for", "x-forwarded-host", "forwarded", "x-real-ip")
    ),
    Call("B68 range", _content(range="bytes=0-3"), 206),
    Call("B68 accept", _content(accept="text/html"), 200),
    Call("B69", _odd_text, 200),
]

FILES = [
    File("B18", _lines({}, {}, {}, {}), "too_many_requests_in_file", 4),
    File("B19", _lines({}, {"body": {"model": "demo", "prompt": "x" * 2000}}), "line_too_long", 2),
    File("B20 empty", b"", "empty_file", None),
    File("B20 blank", b"\n  \r\n\n", "empty_file", None),
    File("B21", _lines({"custom_id": "a"}, {}, {"custom_id": "a"}), "duplicate_custom_id", 3),
    File("B22 none", _lines({}, {"custom_id": None}), "invalid_custom_id", 2),
    File("B22 empty", _lines({"custom_id": ""}), "invalid_custom_id", 1),
    File("B22 long", _lines({"custom_id": "x" * 513}), "invalid_custom_id", 1),
    File("B22 control", _lines({"custom_id": "a\nb"}), "invalid_custom_id", 1),
    File("B23 url", _lines({"url": "/v1/chat/completions"}), "mismatched_endpoint", 1),
    File("B23 method", _lines({}, {"method": "GET"}), "invalid_method", 2),
]
