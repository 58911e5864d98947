"""Bodies that are not a JSON object of at most 4 MiB: one clear answer each, never a 500."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from api.body import MAX_BODY_BYTES
from tests.integration.api.test_completions import error_of

JSON = {"content-type": "application/json"}
PROMPT = b'{"model": "demo", "background": true, "prompt": "%s"}'


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"hello", "invalid_json"),
        (b'{"model": "demo", "prompt"', "invalid_json"),
        (b"[]", "invalid_json"),
        (b"null", "invalid_json"),
        (b'{"a":' * 100_000, "invalid_json"),
        (b"[" * 100_000 + b"]" * 100_000, "invalid_json"),
        (b'{"temperature": NaN}', "invalid_json"),
        (b'{"temperature": Infinity}', "invalid_json"),
        (b'{"seed": %s}' % (b"9" * 5000), "invalid_json"),
        (PROMPT % rb"\ud800", "invalid_unicode"),
        (PROMPT % rb"\udc00x", "invalid_unicode"),
        (PROMPT % b"\xff", "invalid_json"),
        ((PROMPT % b"x").decode().encode("utf-16"), "invalid_json"),
    ],
)
def test_what_is_not_a_json_object_is_refused(client: TestClient, body: bytes, code: str) -> None:
    answer = client.post("/v1/completions", content=body, headers=JSON)

    assert error_of(answer)[:2] == (400, code)


def test_nul_in_a_prompt_is_kept(client: TestClient) -> None:
    answer = client.post("/v1/completions", content=PROMPT % rb"a\u0000b", headers=JSON)

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"content-type": "text/xml"}, "unsupported_media_type"),
        ({"content-type": "application/x-www-form-urlencoded"}, "unsupported_media_type"),
        (JSON | {"content-encoding": "gzip"}, "unsupported_encoding"),
    ],
)
def test_other_forms_of_body_are_refused(client: TestClient, headers: dict[str, str], code: str) -> None:
    assert error_of(client.post("/v1/completions", content=PROMPT % b"x", headers=headers))[:2] == (415, code)


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
