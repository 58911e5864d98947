"""The command line's HTTP client, against a server of a few lines."""

import io
import json
from email.parser import BytesParser
from email.policy import HTTP
from urllib.parse import unquote

import pytest

from cli import client as client_module
from cli.client import Client, ServiceError, Unreachable, path_to
from models.errors import ConfigurationError
from tests.unit.cli.servers import Server

ERROR = {"error": {"message": "limit must be less", "type": "invalid_request_error", "param": None, "code": "too_big"}}


def test_key_and_query_are_sent(server: Server, client: Client) -> None:
    server.answer(200, {"data": []})

    assert client.get("/batches", limit=5, after=None, status="failed") == {"data": []}

    [(method, path, headers, _)] = server.got
    assert (method, path) == ("GET", "/v1/batches?limit=5&status=failed")
    assert headers["authorization"] == "Bearer bm_key"


def test_key_of_batchmill_comes_before_openais(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    url = f"http://127.0.0.1:{server.server_port}/v1"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    server.answer(200, {})
    Client.from_environment(url).get("/batches")
    monkeypatch.setenv("BATCHMILL_API_KEY", "bm_own")
    server.answer(200, {})
    Client.from_environment(url).get("/batches")

    assert [headers["authorization"] for _, _, headers, _ in server.got] == ["Bearer sk-other", "Bearer bm_own"]


def test_lost_answer_is_asked_for_again_under_the_same_key(server: Server, client: Client) -> None:
    server.answer(503, ERROR)
    server.answer(200, {"id": "batch_1"})

    assert client.post("/batches", {"endpoint": "x"})["id"] == "batch_1"

    first, second = server.got
    assert first[2]["idempotency-key"] == second[2]["idempotency-key"]
    assert json.loads(second[3]) == {"endpoint": "x"}


def test_refusal_is_told_in_the_services_words_and_not_repeated(server: Server, client: Client) -> None:
    server.answer(400, ERROR)
    server.answer(409, ERROR, x_should_retry="false")

    with pytest.raises(ServiceError, match=r"^limit must be less \(too_big\)$"):
        client.get("/batches")
    with pytest.raises(ServiceError):
        client.post("/batches", {})
    assert len(server.got) == 2


def test_missing_key_is_told_with_what_to_do(server: Server, client: Client) -> None:
    server.answer(401, ERROR)

    with pytest.raises(ServiceError, match="BATCHMILL_API_KEY"):
        client.get("/batches")


def test_service_that_stays_away_is_named(server: Server, client: Client) -> None:
    for _ in range(client_module.TRIES):
        server.answer(502, b"<html>bad gateway")

    with pytest.raises(Unreachable, match="502"):
        client.get("/batches")
    assert len(server.got) == client_module.TRIES


def test_address_without_a_service_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAUSE_SECONDS", 0.0)

    with pytest.raises(Unreachable, match="batchmill serve"):
        Client("http://127.0.0.1:1/v1", None).get("/batches")


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "file:///etc/passwd", "ftp://host/v1", "http://", "http://[::1/v1"]
)
def test_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        Client(url, None)


@pytest.mark.parametrize("key", ["bm_key\nx: y", "bm_ключ", "bm_\0"])
def test_key_that_no_header_can_hold_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Client("http://127.0.0.1:1/v1", key)

    assert key not in refused.value.message


@pytest.mark.parametrize("id", ["batch 1", "batch_é", "a/../b?c#d", "\udcff"])
def test_id_that_is_none_goes_to_the_service_as_it_is(server: Server, client: Client, id: str) -> None:
    server.answer(404, ERROR)

    with pytest.raises(ServiceError):
        client.get(path_to("batches", id))

    [(_, path, _, _)] = server.got
    assert path.startswith("/v1/batches/")
    assert unquote(path.removeprefix("/v1/batches/"), errors="strict") == id.replace("\udcff", "?")


def test_answer_of_something_else_is_no_answer(server: Server, client: Client) -> None:
    server.answer(200, b"<html>welcome")

    with pytest.raises(ServiceError, match="/v1"):
        client.get("/batches")


def test_upload_is_a_form_of_purpose_and_file(server: Server, client: Client) -> None:
    server.answer(200, {"id": "file-1"})
    content = b'{"a": 1}\r\n--not a boundary\n' * 1000

    assert client.upload(io.BytesIO(content), 'my "file"\r\n.jsonl')["id"] == "file-1"

    [(_, path, headers, sent)] = server.got
    assert (path, len(sent)) == ("/v1/files", int(headers["content-length"]))
    message = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {headers['content-type']}\r\n\r\n".encode() + sent)
    purpose, file = message.iter_parts()
    assert purpose.get_payload(decode=True) == b"batch"
    assert file.get_payload(decode=True) == content
    assert file.get_filename() == "my%20%22file%22%0D%0A.jsonl"


def test_download_comes_by_blocks(server: Server, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "BLOCK_BYTES", 4)
    server.answer(200, b"0123456789")

    assert list(client.download("file-1")) == [b"0123", b"4567", b"89"]
    assert server.got[0][1] == "/v1/files/file-1/content"


def test_download_cut_short_is_an_error(server: Server, client: Client) -> None:
    server.answer(200, b"0123", content_length="100")

    with pytest.raises(Unreachable):
        list(client.download("file-1"))
