"""The batchmill command as a user runs it: a process in a folder of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from models.database import Database
from models.store import Store
from tests.acceptance.served import Served

Json = dict[str, Any]


def heed_interrupts() -> None:
    """Before a command starts: what runs in the background of a script inherits that ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Desk:
    """A folder in which commands are run, and every process they leave behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: set[psutil.Process] = set()
        # Neither a service of this machine nor its settings, but for the model and the one thread tests share.
        kept = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
        self.environment = kept | {"BATCHMILL_THREADS": "1"}

    def write(self, name: str, lines: list[Json | str]) -> None:
        """Write a prompt file; a string is a line as it stands."""
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (self.folder / name).write_text("".join(text + "\n" for text in texts))

    def read(self, name: str) -> list[Json]:
        """Read a result file."""
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        """Start a command and go on."""
        return subprocess.Popen(
            [sys.executable, "-m", "cli.main", *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed_interrupts,
        )

    def run(self, *arguments: str, stdin: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )

    def children(self, process: "subprocess.Popen[str]") -> dict[str, psutil.Process]:
        """The worker and the Redis a command started, by name."""
        found = {}
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    line = " ".join(child.cmdline())
                    found["redis" if "redis-server" in line else "worker"] = child
                    self.seen.add(child)
        return found

    def leftovers(self) -> list[psutil.Process]:
        """Children seen that are still alive."""
        return [child for child in self.seen if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]

    def store(self) -> Store | None:
        """The database of the one run in this folder, once it is there."""
        paths = list((self.folder / ".batchmill" / "runs").glob("*/batchmill.db"))
        return Store(Database(f"sqlite:///{paths[0]}", pool_size=1)) if paths else None

    def num_done(self) -> int:
        """Rows of that run with a final status."""
        store = self.store()
        if store is None:
            return 0
        with suppress(Exception), store.database.read() as connection:  # the tables may not be there yet
            query = "SELECT num_completed + num_failed FROM batches"
            return int(connection.exec_driver_sql(query).scalar_one_or_none() or 0)
        store.database.dispose()
        return 0

    def close(self) -> None:
        """End what is left."""
        for child in self.leftovers():
            with suppress(psutil.NoSuchProcess):
                child.send_signal(signal.SIGKILL)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """An empty folder to work in."""
    desk = Desk(tmp_path)
    yield desk
    desk.close()


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`batchmill serve` with the demo model, shared by every test that only talks to it."""
    served = Served(tmp_path_factory.mktemp("served"))
    yield served
    served.close()
