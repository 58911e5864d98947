"""What the official client does by itself when an answer is lost: the work is not done twice."""

import socket
import threading
import time
from collections.abc import Iterator

import httpx
import openai
import pytest
from fastapi import FastAPI
from sqlalchemy import func, select

from models.database import Database
from models.status import Status
from models.store import Store
from models.tables import jobs
from tests.integration.api.fakes import Worker, wait_for_job
from tests.integration.api.hanging_up import asking, hang_up_when_stored
from tests.waiting import wait_until

BODY = {"model": "demo", "prompt": "hi"}
MESSAGES = [{"role": "user", "content": "hello"}]


class Lossy:
    """A proxy that drops so many answers: what was asked goes through, and the connection breaks when the service has
    answered."""

    def __init__(self, upstream: str, *, drops: int) -> None:
        self._host, port = upstream.removeprefix("http://").split(":")
        self._port = int(port)
        self._drops = drops
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self.num_requests = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        """One request a connection, whose headers and body fit into a few packets."""
        with client, socket.create_connection((self._host, self._port)) as upstream:
            request = client.recv(65536)
            while not _is_whole(request):
                request += client.recv(65536)
            self.num_requests += 1
            is_lost = self.num_requests <= self._drops
            upstream.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
            while answer := upstream.recv(65536):
                if is_lost:
                    return
                client.sendall(answer)

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()


def _is_whole(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().splitlines() if line.startswith(b"content-length:")]
    return bool(end) and len(body) >= int(lengths[0])


@pytest.fixture
def lossy(server: httpx.Client) -> Iterator[Lossy]:
    proxy = Lossy(str(server.base_url).rstrip("/"), drops=1)
    yield proxy
    proxy.close()


@pytest.fixture
def sdk(lossy: Lossy) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=lossy.url, api_key="EMPTY") as client:
        yield client


def num_jobs(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(jobs)).scalar_one()


def test_lost_answer_in_the_background_is_one_job(sdk: openai.OpenAI, lossy: Lossy, database: Database) -> None:
    response = sdk.responses.create(model="demo", input="hello", background=True)

    assert (lossy.num_requests, response.status) == (2, "queued")
    assert num_jobs(database) == 1


def test_lost_answer_that_was_waited_for_is_one_job(
    sdk: openai.OpenAI, lossy: Lossy, worker: Worker, database: Database
) -> None:
    worker.finish_all()

    completion = sdk.chat.completions.create(model="demo", messages=MESSAGES)  # type: ignore[arg-type]

    assert (lossy.num_requests, completion.choices[0].message.content) == (2, "done")
    assert num_jobs(database) == 1


def test_equal_requests_of_one_client_are_each_a_job(server: httpx.Client, database: Database) -> None:
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="EMPTY") as client:
        ids = {client.responses.create(model="demo", input="hello", background=True).id for _ in range(3)}

    assert len(ids) == 3
    assert num_jobs(database) == 3


def test_client_that_gave_up_and_came_back_is_answered(
    server: httpx.Client, worker: Worker, database: Database
) -> None:
    """The first try's job was cancelled as its connection broke: the retry must not be answered with that."""
    first = hang_up_when_stored(server, database, "/v1/completions", BODY, _headers(retry_count=0))
    wait_for_job(Store(database), first, Status.CANCELLED)
    worker.finish_all()

    again = _post(server, retry_count=1)

    assert (again.status_code, again.json()["status"]) == (200, "completed")
    assert "idempotent-replayed" not in again.headers


def test_first_try_that_breaks_does_not_cancel_what_a_retry_waits_for(
    app: FastAPI, server: httpx.Client, worker: Worker, database: Database
) -> None:
    results: list[httpx.Response] = []
    retry = threading.Thread(target=lambda: results.append(_post(server, retry_count=1)))

    with asking(server, database, "/v1/completions", BODY, _headers(retry_count=0)) as job_id:
        retry.start()
        wait_until(lambda: not app.state.services.holders.is_alone(job_id))
    time.sleep(0.3)  # the broken connection is noticed
    worker.finish_all()
    retry.join()

    assert (results[0].status_code, results[0].headers["idempotent-replayed"]) == (200, "true")
    assert num_jobs(database) == 1


def _post(server: httpx.Client, *, retry_count: int) -> httpx.Response:
    return server.post("/v1/completions", json=BODY, headers=_headers(retry_count=retry_count))


def _headers(*, retry_count: int) -> dict[str, str]:
    return {"x-stainless-retry-count": str(retry_count)}
