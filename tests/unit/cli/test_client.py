"""The command line's HTTP client, against a server of a few lines."""

import io
import json
import threading
from collections.abc import Iterator
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cli import client as client_module
from cli.client import Client, ServiceError, Unreachable
from models.errors import ConfigurationError

ERROR = {"error": {"message": "limit must be less", "type": "invalid_request_error", "param": None, "code": "too_big"}}


class Server(ThreadingHTTPServer):
    """Answers as it is told, one answer a request, and keeps what it got."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.got: list[tuple[str, str, dict[str, str], bytes]] = []

    def answer(self, status: int, body: Any, **headers: str) -> None:  # noqa: ANN401 (JSON)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append((status, headers, body if isinstance(body, bytes) else json.dumps(body).encode()))


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.got.append((self.command, self.path, headers, content))
        status, more, body = self.server.answers.pop(0)
        self.send_response(status)
        for name, value in ({"content-length": str(len(body)), "connection": "close"} | more).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(client_module, "PAUSE_SECONDS", 0.0)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def client(server: Server) -> Client:
    return Client(f"http://127.0.0.1:{server.server_port}/v1/", "bm_key")


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


@pytest.mark.parametrize("url", ["", "localhost:8000", "file:///etc/passwd", "ftp://host/v1", "http://"])
def test_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        Client(url, None)


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
