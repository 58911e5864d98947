"""Workers and services with faults built in, on real databases and a real Redis."""

import subprocess
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import httpx

from models.records import JobRecord
from models.status import BatchStatus
from tests.chaos.slow_engine import HANG_FILE, STEP_SECONDS
from tests.conftest import free_port
from tests.faults.launch import start
from tests.integration.worker.batches import Desk, line
from tests.integration.worker.conftest import Station
from tests.waiting import wait_until

START_SECONDS = 60.0
PATIENCE_SECONDS = 60.0
SHORT_LEASE = {"BATCHMILL_LEASE_SECONDS": "2"}


class Stage(Station):
    """A station whose processes may have faults."""

    def __init__(self, database_url: str, redis_url: str, folder: Path) -> None:
        super().__init__(database_url, redis_url, folder)
        self.desk = Desk(self)
        self.services: list[subprocess.Popen[bytes]] = []
        self.clients: list[httpx.Client] = []

    def _settings(self, **settings: str) -> dict[str, str]:
        return {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "BATCHMILL_STATE_DIR": str(self.folder / "state"),
            "BATCHMILL_MODEL": "noop",
        } | settings

    def start_faulty(
        self, *failpoints: str, module: str = "tests.faults.launch", **settings: str
    ) -> "subprocess.Popen[bytes]":
        """Start a worker with faults and return once it has its lease."""
        before = {worker.pid for worker in self.store.workers()}
        log = self.folder / "worker.log"
        process = start("worker", log=log, settings=self._settings(**settings), failpoints=failpoints, module=module)
        self.workers.append(process)

        def has_lease() -> bool:
            assert process.poll() is None, self.log()
            return bool({worker.pid for worker in self.store.workers()} - before)

        wait_until(has_lease, START_SECONDS)
        return process

    def start_service(self, *failpoints: str, **settings: str) -> tuple["subprocess.Popen[bytes]", httpx.Client]:
        """Start the HTTP service with faults; it answers when this returns."""
        port, log = free_port(), self.folder / "api.log"
        process = start("api", "--port", str(port), log=log, settings=self._settings(**settings), failpoints=failpoints)
        self.services.append(process)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        self.clients.append(client)

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            with suppress(httpx.TransportError):
                return client.get("/health/live").status_code == 200
            return False

        wait_until(answers, START_SECONDS)
        return process, client

    def start_slow(self, step_seconds: float, **settings: str) -> "subprocess.Popen[bytes]":
        """Start a worker each of whose tokens takes so long."""
        slow = {STEP_SECONDS: str(step_seconds), HANG_FILE: str(self.folder / "hang")}
        return self.start_faulty(module="tests.chaos.process", **slow, **settings)

    def submit_lines(self, number: int, *, max_tokens: int = 200) -> UUID:
        """A batch of so many lines; its id."""
        return self.desk.submit(line(n, max_tokens=max_tokens) for n in range(number))

    def all_once(self, batch_id: UUID, number: int) -> list[JobRecord]:
        """The batch is complete: each line is one row in its place, and each row has the one answer to its prompt."""
        batch = self.desk.wait(batch_id)
        assert (batch.status, batch.num_total, batch.num_completed) == (BatchStatus.COMPLETED, number, number)
        rows = list(self.desk.rows(batch_id))
        assert [(row.line, row.custom_id) for row in rows] == [(n + 1, f"r{n}") for n in range(number)]
        assert [[answer.text for answer in row.completions] for row in rows] == [[f"prompt {n}"] for n in range(number)]
        return rows

    def say(self, text: str) -> bool:
        """Whether a worker wrote this."""
        return text in self.log()

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for process in self.services:
            process.kill()
            process.wait()
        super().close()
