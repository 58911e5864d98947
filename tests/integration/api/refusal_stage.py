"""What the rows of the table of refusals are played on: a service, a worker, a worker's reader, and bare sockets."""

import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx
import orjson
import pytest
from celery import Celery
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr

from api import body
from api.app import create_app
from models.claims import Claims
from models.database import Database
from models.disk import DiskWatch
from models.ids import uuid7
from models.key_store import KeyStore
from models.records import WorkerRecord
from models.settings import Settings
from tests.integration.api.batch_making import request_line
from tests.integration.api.conftest import NO_REDIS, serving
from tests.integration.api.fakes import Worker
from tests.integration.api.test_completions import Answer
from tests.waiting import wait_until
from worker.brake import Brake
from worker.lease import Lease
from worker.reader import Reader

SECRET = "7f3a-prompt-text"
JOB = {"model": "demo", "background": True, "prompt": SECRET}
WINDOW = {"endpoint": "/v1/completions", "completion_window": "24h"}


@dataclass(frozen=True, slots=True)
class Stage:
    """All that a row may need."""

    client: TestClient
    app: FastAPI
    worker: Worker
    settings: Settings
    database: Database
    monkeypatch: pytest.MonkeyPatch

    def service(self, **changes: Any) -> FastAPI:  # noqa: ANN401 (any setting)
        """Another service on the same tables."""
        return create_app(self.settings.model_copy(update=changes), self.database)

    def guarded(self, key: str | None, *, auth: str = "keys", **more: Any) -> TestClient:  # noqa: ANN401
        """A client of a service that asks for keys."""
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        headers |= more.pop("headers", {})
        return TestClient(self.service(auth=auth), headers=headers, raise_server_exceptions=False, **more)

    def keys(self) -> KeyStore:
        return KeyStore(self.database)

    def created(self, path: str = "/v1/completions", **change: Any) -> str:  # noqa: ANN401 (any field)
        """The id of something made."""
        base = JOB if path == "/v1/completions" else WINDOW | {"requests": [request_line(1)]}
        return str(self.client.post(path, json=base | change).json()["id"])


class Call(NamedTuple):
    """What is done, and how it is answered; without a code it is no refusal."""

    number: str
    send: Callable[[Stage], Answer]
    status: int
    code: str | None = None


class File(NamedTuple):
    """The input of a batch, of which a worker finds out that it is bad, and at which line."""

    number: str
    content: bytes
    code: str
    line: int | None

    def errors(self, stage: Stage) -> list[dict[str, Any]]:
        """What the batch says once a worker has read its input."""
        content = {"purpose": "batch"}, {"file": ("in.jsonl", self.content)}
        file_id = stage.client.post("/v1/files", data=content[0], files=content[1]).json()["id"]
        batch_id = stage.client.post("/v1/batches", json=WINDOW | {"input_file_id": file_id}).json()["id"]
        with _reading(stage):
            wait_until(lambda: stage.client.get(f"/v1/batches/{batch_id}").json()["status"] == "failed")
        errors: list[dict[str, Any]] = stage.client.get(f"/v1/batches/{batch_id}").json()["errors"]["data"]
        return errors


@contextmanager
def _reading(stage: Stage) -> Iterator[None]:
    """A worker's reader at work, whose limits are small."""
    lease = Lease(Claims(stage.database), WorkerRecord(uuid7(), "host/reader/0", "host", 1, "demo", rows=1), 60.0)
    lease.begin()
    small = {"max_batch_requests": 3, "max_line_bytes": 1024, "database_url": url_of(stage.database)}
    settings = stage.settings.model_copy(update=small)
    brake = Brake(DiskWatch([], 0), is_behind=lambda: False)
    reader = Reader(Celery(broker=NO_REDIS), settings, lease, brake, on_crash=lambda: None)
    reader.start()
    reader.wake()
    yield
    reader.stop()
    reader.join(10)


def url_of(database: Database) -> SecretStr:
    """Its address, as settings have it."""
    return SecretStr(database.engine.url.render_as_string(hide_password=False))


class Raw(NamedTuple):
    """An answer as it came over a socket."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:  # noqa: ANN401 (any JSON)
        return orjson.loads(self.content)

    @property
    def text(self) -> str:
        return self.content.decode()


def raw(*pieces: bytes, pause_seconds: float = 0.0, **limits: float) -> Callable[[Stage], Answer]:
    """Send bytes piece by piece to a real server, for as long as it does not answer; it must hang up then."""

    def send(stage: Stage) -> Answer:
        for name, seconds in limits.items():
            stage.monkeypatch.setattr(body, name, seconds)
        with serving(stage.service()) as url, socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0)) as sock:
            sock.settimeout(10)
            received = b"".join(_talk(sock, pieces, pause_seconds))
        start, _, content = received.partition(b"\r\n\r\n")
        first, *lines = start.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        assert headers["connection"] == "close"
        return Raw(int(first.split()[1]), headers, content)

    return send


def _talk(sock: socket.socket, pieces: Sequence[bytes], pause_seconds: float) -> Iterator[bytes]:
    try:
        for piece in pieces:
            sock.sendall(piece)
            time.sleep(pause_seconds)
    except (BrokenPipeError, ConnectionResetError):
        pass  # it has answered and hung up
    try:
        while part := sock.recv(65536):
            yield part
    except ConnectionResetError:
        return


def head(*headers: str, path: str = "POST /v1/completions") -> bytes:
    lines = [f"{path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers, "", ""]
    return "\r\n".join(lines).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
