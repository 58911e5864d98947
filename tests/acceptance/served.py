"""`batchmill serve` in a folder of its own, for tests that are its clients."""

import os
import subprocess
import sys
from pathlib import Path

import httpx

from tests.conftest import free_port
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


class Served:
    """A service in a folder of its own, and the examples run against it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, f"http://127.0.0.1:{free_port()}/v1"
        kept = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
        path = os.pathsep.join([str(ROOT / "examples" / "clients"), str(ROOT)])
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
