"""The client examples, run as their reader would: against `batchmill serve` with the demo model."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import free_port
from tests.waiting import wait_until

CLIENTS = Path(__file__).parents[2] / "examples" / "clients"


class Served:
    """A service in a folder of its own, and the examples run against it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, f"http://127.0.0.1:{free_port()}/v1"
        kept = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
        path = os.pathsep.join([str(CLIENTS), str(CLIENTS.parents[1])])
        self.environment = kept | {"BATCHMILL_THREADS": "1", "OPENAI_BASE_URL": self.url, "PYTHONPATH": path}
        with (folder / "serve.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli.main", "serve", "--port", self.url.rsplit(":", 1)[1].split("/")[0]],
                cwd=folder,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        wait_until(self._has_model, 60)

    def _has_model(self) -> bool:
        assert self.process.poll() is None, (self.folder / "serve.log").read_text()
        try:
            return bool(httpx.get(f"{self.url}/models").json()["data"])
        except httpx.TransportError:
            return False

    def run(self, *command: str) -> str:
        """Run one example; its output."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def close(self) -> None:
        """Stop the service as ctrl-C would."""
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("served"))
    yield served
    served.close()


def test_openai_bulk(served: Served) -> None:
    shown = served.run(sys.executable, str(CLIENTS / "openai_bulk.py"))
    assert "completed: 4 of 4 done, 0 failed" in shown
    assert re.search(r"^json\.dumps: \S+", shown, re.MULTILINE)


def test_openai_polling(served: Served) -> None:
    first, second, answer = served.run(sys.executable, str(CLIENTS / "openai_polling.py")).split("\n", 2)
    assert re.fullmatch(r"chatcmpl-\w+ queued", first)
    assert second.startswith("completed {'prompt_tokens': ")
    assert answer.strip()


def test_asyncio_jobs(served: Served) -> None:
    shown = served.run(sys.executable, str(CLIENTS / "asyncio_jobs.py"), "200")
    assert shown.splitlines()[0] == "200 jobs accepted"
    assert shown.splitlines()[-1] == "{'completed': 200}"


def test_curl(served: Served) -> None:
    shown = served.run("bash", str(CLIENTS / "curl.sh")).splitlines()
    assert shown[0] == "completed"
    assert '"text_completion"' in shown[1]
    assert ['"one"' in shown[2], '"two"' in shown[3]] == [True, True]


def test_celery_service(served: Served) -> None:
    with (served.folder / "celery.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "celery_service", "worker", "--pool", "solo"],
            cwd=served.folder,
            env=served.environment,
            stdout=log,
            stderr=log,
        )
    try:
        assert served.run(sys.executable, str(CLIENTS / "celery_service.py")).strip()
    finally:
        worker.terminate()
        worker.wait(30)
