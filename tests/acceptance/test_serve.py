"""batchmill serve: HTTP and Celery clients on one machine, and a clean end."""

import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import httpx
import pytest
from celery import Celery

from cli.serve import LOOK_SECONDS
from tests.acceptance.conftest import Desk
from tests.waiting import wait_until


class Service:
    """A running `batchmill serve` and a client of it."""

    def __init__(self, desk: Desk, model: str, *options: str, **environment: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.desk = desk
        self.process: subprocess.Popen[str] = desk.start(
            "serve", "--model", model, "--port", str(port), *options, **environment
        )
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=70)
        wait_until(self._is_ready)
        desk.children(self.process)

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()
        try:
            return bool(self.http.get("/health/ready").json()["workers"])
        except httpx.TransportError:
            return False

    def close(self) -> None:
        """End it if the test did not."""
        self.http.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def service(desk: Desk) -> Iterator[Service]:
    """A service with the engine that answers at once."""
    service = Service(desk, "noop")
    yield service
    service.close()


def test_service_says_what_its_worker_runs(desk: Desk) -> None:
    service = Service(desk, "noop", BATCHMILL_LOG_FORMAT="json")
    try:
        wait_until(lambda: "ready: " in (desk.folder / ".batchmill" / "worker.log").read_text())
        time.sleep(2 * LOOK_SECONDS)
        service.process.send_signal(signal.SIGTERM)
        _, stderr = service.process.communicate(timeout=60)
        assert "batchmill: model noop, 1024 rows, none on none\n" in stderr
    finally:
        service.close()


def test_job_is_submitted_polled_and_found(service: Service) -> None:
    body = {"model": "noop", "prompt": "hello", "max_tokens": 4, "background": True}
    created = service.http.post("/v1/completions", json=body)
    assert created.status_code == 200
    assert created.json()["status"] == "queued"
    job = service.http.get(f"/v1/jobs/{created.json()['id']}", params={"wait": 30}).json()
    assert job["status"] == "completed"
    assert job["result"]["choices"][0]["text"] == "hell"


def test_celery_client_finds_the_broker_in_the_state_directory(service: Service) -> None:
    state = service.desk.folder / ".batchmill"
    url = (state / "redis.url").read_text().strip()
    app = Celery(broker=url, backend=f"worker.result_backend:JobsBackend+sqlite:///{state}/batchmill.db")
    sent = app.send_task("generate", kwargs={"prompt": "hello", "max_tokens": 2}, queue="generate.noop")
    assert sent.get(timeout=30)["text"] == "he"
    job = service.http.get(f"/v1/jobs/{sent.id}").json()
    assert job["status"] == "completed"
    app.backend.store.database.dispose()
    app.close()


def test_killed_worker_is_started_again(service: Service) -> None:
    service.desk.children(service.process)["worker"].kill()
    body = {"model": "noop", "prompt": "hello", "max_tokens": 4}
    assert service.http.post("/v1/completions", json=body).json()["choices"][0]["text"] == "hell"


def test_sigterm_ends_everything(service: Service) -> None:
    service.process.send_signal(signal.SIGTERM)
    service.process.communicate(timeout=30)
    assert service.process.returncode == 0
    assert service.desk.leftovers() == []
    assert not (service.desk.folder / ".batchmill" / "redis.url").exists()


def test_second_service_in_one_state_directory_is_refused(service: Service) -> None:
    second = service.desk.run("serve", "--model", "noop", "--port", "0")
    assert second.returncode == 1
    assert "already runs" in second.stderr


def test_network_address_without_keys_is_refused(desk: Desk) -> None:
    refused = desk.run("serve", "--model", "noop", "--host", "0.0.0.0")
    assert refused.returncode == 1
    assert "BATCHMILL_AUTH" in refused.stderr
