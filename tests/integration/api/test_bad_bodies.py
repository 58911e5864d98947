"""Bodies just below and above 4 MiB, announced or not. What else is no JSON object: test_refusals.py."""

from collections.abc import Iterator

from fastapi.testclient import TestClient

from api.body import MAX_BODY_BYTES
from tests.integration.api.test_completions import error_of

JSON = {"content-type": "application/json"}
PROMPT = b'{"model": "demo", "background": true, "prompt": "%s"}'


def test_json_with_a_charset_is_read(client: TestClient) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}

    assert client.post("/v1/completions", content=PROMPT % b"x", headers=headers).status_code == 200


def test_announced_body_over_the_limit_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/completions", content=PROMPT % (b"x" * MAX_BODY_BYTES), headers=JSON)

    assert error_of(answer)[:2] == (413, "request_too_large")
    assert answer.headers["connection"] == "close"


def test_chunked_body_over_the_limit_is_refused(client: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        yield from (b"x" * 65536 for _ in range(100))

    assert error_of(client.post("/v1/completions", content=chunks(), headers=JSON))[:2] == (413, "request_too_large")


def test_body_just_under_the_limit_is_read(client: TestClient) -> None:
    body = PROMPT % (b"x" * (MAX_BODY_BYTES - len(PROMPT)))

    assert client.post("/v1/completions", content=body, headers=JSON).status_code == 200
