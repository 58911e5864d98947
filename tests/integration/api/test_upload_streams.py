"""Uploads and downloads on a real server: the official client, hanging up, a killed service, flat memory."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from fastapi import FastAPI

from api.services import Services
from models.settings import Settings
from tests.conftest import free_port
from tests.integration.api.test_files import FORM, blobs_in
from tests.integration.store.making import lines, new_batch
from tests.unit.api.forms import encoded, upload
from tests.waiting import wait_until

MEGABYTE = 1_000_000
PROGRAM = """
import sys
import uvicorn
from api.app import create_app
from models.database import Database
from models.settings import load_settings
url, state_dir, port = sys.argv[1:]
settings = load_settings(state_dir=state_dir, redis_url="redis://127.0.0.1:1/0")
uvicorn.run(create_app(settings, Database(url)), port=int(port), log_config=None)
"""


@pytest.fixture
def sdk(server: httpx.Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="EMPTY", max_retries=0) as client:
        yield client


@pytest.fixture
def process(sqlite_url: str, tmp_path: Path) -> Iterator[tuple[psutil.Process, str]]:
    """A service of its own process, and its address."""
    port = free_port()
    command = [sys.executable, "-c", PROGRAM, sqlite_url, str(tmp_path), str(port)]
    child = subprocess.Popen(command, cwd=Path(__file__).parents[3])
    try:
        wait_until(lambda: _is_open(port))
        yield psutil.Process(child.pid), f"http://127.0.0.1:{port}"
    finally:
        child.kill()
        child.wait()


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_official_client_drives_files(sdk: openai.OpenAI) -> None:
    content = b"".join(b'{"n": %d}\n' % number for number in range(1000))
    made = sdk.files.create(
        file=("in.jsonl", content), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    others = [sdk.files.create(file=b"x", purpose="user_data").id for _ in range(3)]

    assert (made.bytes, made.filename, made.status) == (len(content), "in.jsonl", "processed")
    assert made.expires_at == made.created_at + 3600
    assert sdk.files.wait_for_processing(made.id).id == made.id
    assert [file.id for file in sdk.files.list(limit=1)] == [*others[::-1], made.id]  # four pages
    assert sdk.files.content(made.id).content == content
    with sdk.files.with_streaming_response.content(made.id) as answer:
        assert [json.loads(line)["n"] for line in answer.iter_lines()] == list(range(1000))
    assert sdk.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.files.retrieve(made.id)
    assert missing.value.code == "not_found"


def test_official_client_is_told_what_is_wrong(sdk: openai.OpenAI) -> None:
    wrong: Any = "homework"
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.files.create(file=b"x", purpose=wrong)

    assert (refused.value.code, refused.value.param) == ("invalid_purpose", "purpose")


def test_official_client_reads_a_running_batch(sdk: openai.OpenAI, app: FastAPI) -> None:
    services: Services = app.state.services
    batch_id = new_batch(services.batches)
    services.batches.append(batch_id, lines(2), num_lines=2, num_bytes=0)
    batch = services.batches.get(batch_id)
    assert batch is not None
    assert batch.error_file_id is not None
    id = f"file-{batch.error_file_id.hex}"

    assert (sdk.files.retrieve(id).status, sdk.files.content(id).content) == ("uploaded", b"")
    services.batches.cancel(batch_id)

    with sdk.files.with_streaming_response.content(id) as answer:  # packed on the way, as this client takes that
        assert answer.headers["content-encoding"] == "gzip"
        found = [json.loads(line) for line in answer.iter_lines()]
    assert [(line["custom_id"], line["error"]["code"]) for line in found] == [
        ("request-0", "batch_cancelled"),
        ("request-1", "batch_cancelled"),
    ]
    assert sdk.files.wait_for_processing(id).status == "processed"


def test_client_that_dies_in_the_middle_leaves_nothing(server: httpx.Client, settings: Settings) -> None:
    def dying() -> Iterator[bytes]:
        body = encoded(upload(bytes(5 * MEGABYTE)))
        yield body[: 3 * MEGABYTE]
        wait_until(lambda: blobs_in(settings))  # the service is in the middle of it
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        server.post("/v1/files", content=dying(), headers=FORM)

    wait_until(lambda: not blobs_in(settings))
    assert server.get("/v1/files").json()["data"] == []


def test_refused_upload_is_cut_while_it_comes(server: httpx.Client, settings: Settings) -> None:
    """Nothing is announced and it never ends: the answer comes all the same."""

    def endless() -> Iterator[bytes]:
        yield encoded(upload(b""), closed=False)[:-2]
        while True:
            yield bytes(MEGABYTE)

    answer = server.post("/v1/files", content=endless(), headers=FORM, timeout=60)

    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "file_too_large")
    assert blobs_in(settings) == []


def test_killed_service_shows_nothing_of_a_half_upload(
    process: tuple[psutil.Process, str], settings: Settings, app: FastAPI
) -> None:
    """kill -9 in the middle: no row, and what it wrote is removed when it is a day old."""
    service, url = process

    def cut() -> Iterator[bytes]:
        yield encoded(upload(bytes(5 * MEGABYTE)))[: 3 * MEGABYTE]
        wait_until(lambda: blobs_in(settings))
        service.kill()
        while True:
            yield bytes(MEGABYTE)

    with pytest.raises(httpx.TransportError):
        httpx.post(f"{url}/v1/files", content=cut(), headers=FORM, timeout=30)

    services: Services = app.state.services
    assert services.files.list("default", limit=10) == []
    assert len(blobs_in(settings)) == 1
    assert services.blobs.remove_abandoned(older_than_seconds=0) == 1
    assert blobs_in(settings) == []


def test_memory_does_not_follow_the_file(process: tuple[psutil.Process, str]) -> None:
    """100 MB up and down. The bound is generous: 6 MB were measured for 200 MB."""
    service, url = process
    size = 100 * MEGABYTE
    small = encoded(upload(b"x"))
    assert httpx.post(f"{url}/v1/files", content=small, headers=FORM).status_code == 200
    before, peak = service.memory_info().rss, 0

    def chunks() -> Iterator[bytes]:
        nonlocal peak
        head, tail = encoded(upload(b"|")).split(b"|")
        yield head
        for _ in range(size // MEGABYTE):
            peak = max(peak, service.memory_info().rss)
            yield bytes(MEGABYTE)
        yield tail

    made = httpx.post(f"{url}/v1/files", content=chunks(), headers=FORM, timeout=60).json()
    num_bytes = 0
    with httpx.stream("GET", f"{url}/v1/files/{made['id']}/content", timeout=60) as answer:
        for chunk in answer.iter_raw(MEGABYTE):
            peak = max(peak, service.memory_info().rss)
            num_bytes += len(chunk)

    assert made["bytes"] == num_bytes == size
    assert peak - before < 30 * MEGABYTE


def test_download_that_nobody_reads_any_more_ends(
    server: httpx.Client, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client goes away in the middle of a large output: no more rows are read for it."""
    services: Services = app.state.services
    batch_id = new_batch(services.batches)
    services.batches.append(batch_id, lines(400), num_lines=400, num_bytes=0)
    services.batches.cancel(batch_id)
    batch = services.batches.get(batch_id)
    assert batch is not None
    assert batch.error_file_id is not None
    monkeypatch.setattr("api.files.batch_files.CHUNK_BYTES", 1)
    monkeypatch.setattr("api.files.batch_files.MAX_PAGE", 1)
    reads: list[float] = []
    gone = threading.Event()
    results = type(services.batches).results

    def noted(*args: Any, **given: Any) -> Any:  # noqa: ANN401
        reads.append(time.monotonic())
        if len(reads) > 10:  # the client has something to read by then, and goes
            gone.wait(10)
        return results(*args, **given)

    monkeypatch.setattr(type(services.batches), "results", noted)
    with server.stream("GET", f"/v1/files/file-{batch.error_file_id.hex}/content") as answer:
        pieces = answer.iter_raw()
        next(pieces)
        wait_until(lambda: len(reads) > 10)
    gone.set()

    wait_until(lambda: time.monotonic() - reads[-1] > 0.5)
    assert len(reads) < 300  # of 338: pages of one row after the first one of 64
