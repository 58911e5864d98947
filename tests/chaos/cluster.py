"""The whole service as processes: Redis, a database, the api, workers, and a proxy on each way between them."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from models.logs import READY
from tests.chaos.proxy import Loop, Mode, Proxy
from tests.chaos.servers import DatabaseServer, Postgresql, RedisServer, Sqlite
from tests.chaos.slow_engine import HANG_FILE, STEP_SECONDS
from tests.conftest import free_port
from tests.faults import launch
from tests.freezing import freeze
from tests.waiting import wait_until

START_SECONDS = 90.0
EXIT_SECONDS = 60.0
NUM_WORKERS = 3


@dataclass
class Node:
    """A machine that runs one process of the service, and its ways to Redis and to the database."""

    name: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    log: Path
    redis: Proxy
    database: Proxy | None
    mutants: Sequence[str]
    state_dir: Path
    num_lost: int = 0
    is_frozen: bool = False
    is_wanted: bool = True
    process: "subprocess.Popen[bytes] | None" = field(default=None)
    _log_start: int = 0  # where the log of this start begins
    _lock: threading.RLock = field(default_factory=threading.RLock)  # nemesis and supervisor start and end it

    @property
    def links(self) -> list[Proxy]:
        """Every proxy of this machine."""
        return [self.redis, *([self.database] if self.database is not None else [])]

    @property
    def hang_file(self) -> Path:
        """Made, it hangs the engine at its next step."""
        return self.state_dir / "hang"

    def start(self) -> None:
        """Start the process, again in its old place."""
        self.state_dir.mkdir(exist_ok=True)
        faults = [part for name in self.mutants for part in ("--mutant", name)]
        with self._lock, self.log.open("ab") as log:
            self._log_start = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.process", *faults, "--", *self.arguments],
                cwd=self.state_dir.parent,
                env=launch.environment(
                    **self.environment, BATCHMILL_STATE_DIR=str(self.state_dir), **{HANG_FILE: str(self.hang_file)}
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            self.is_wanted = True

    def revive(self) -> int | None:
        """Start it again if it ended by itself. Returns the status it ended with."""
        with self._lock:
            if self.process is None or self.runs or not self.is_wanted:
                return None
            status = self.process.returncode
            self.start()
            return status

    @property
    def is_ready(self) -> bool:
        """Whether this start of a worker said that it works."""
        return self.runs and READY.encode() in self.log.read_bytes()[self._log_start :]

    @property
    def runs(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if there is a process to get it."""
        if self.process is not None and self.runs:
            self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9; nobody starts it again until told to."""
        with self._lock:
            self.is_wanted = self.is_frozen = False
            self.signal(signal.SIGKILL)
            if self.process is not None:
                self.process.wait()

    def lose(self) -> None:
        """Kill it, and have another machine take over: nobody there knows how this one ended."""
        self.kill()
        self.num_lost += 1
        self.state_dir = self.state_dir.with_name(f"{self.name}-{self.num_lost}")

    def freeze(self, database_url: str) -> None:
        """SIGSTOP: to everyone else it looks dead."""
        if self.process is not None and self.runs:
            freeze(database_url, self.process.pid)
        self.is_frozen = True

    def thaw(self) -> None:
        """SIGCONT: it goes on as if nothing had happened."""
        self.signal(signal.SIGCONT)
        self.is_frozen = False

    def drain(self) -> int:
        """SIGTERM, and wait for the end. Returns the exit status."""
        with self._lock:
            self.is_wanted = False
            self.signal(signal.SIGTERM)
        assert self.process is not None
        return self.process.wait(EXIT_SECONDS)


class Cluster:
    """Started by `with`; everything is ended at the end of the block."""

    def __init__(
        self,
        folder: Path,
        *,
        database: str = "postgresql",
        mutants: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        step_seconds: float = 0.02,
        num_workers: int = NUM_WORKERS,
    ) -> None:
        self.folder, self._mutants = folder, mutants
        self._settings = dict(settings or {}) | {STEP_SECONDS: str(step_seconds)}
        self._num_workers = num_workers
        self._loop = Loop()
        self.redis = RedisServer(folder)
        self.postgresql = Postgresql(folder) if database == "postgresql" else None
        self.database: DatabaseServer = self.postgresql or Sqlite(folder)
        self.workers: list[Node] = []

    def __enter__(self) -> "Cluster":
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        self.redis.start()
        self.database.start()
        port = free_port()
        self.api = self._node("api", "api", "--port", str(port))
        self.front = Proxy(self._loop, ("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self.front.port}"
        self._direct_url = f"http://127.0.0.1:{port}"
        self.workers = [
            self._node(f"worker{number}", "worker", "--loglevel", "info") for number in range(self._num_workers)
        ]
        for node in self.nodes:
            node.start()
        wait_until(self.serves, START_SECONDS)
        wait_until(self._workers_are_ready, START_SECONDS)

    @property
    def nodes(self) -> list[Node]:
        """Every machine with a process of ours."""
        return [self.api, *self.workers]

    @property
    def links(self) -> list[Proxy]:
        """Every proxy."""
        return [self.front, *(proxy for node in self.nodes for proxy in node.links)]

    def serves(self) -> bool:
        """Whether the api answers, straight and not through the proxy."""
        assert self.api.runs, self.log("api")
        with suppress(httpx.TransportError):
            return httpx.get(f"{self._direct_url}/health", timeout=2).status_code == 200
        return False

    def _workers_are_ready(self) -> bool:
        for node in self.workers:
            assert node.runs, self.log(node.name)
        return all(node.is_ready for node in self.workers)

    def supervise(self) -> list[str]:
        """Start again what ended by itself, as a container's restart policy does. Returns those that a bug ended."""
        return [node.name for node in self.nodes if node.revive() == os.EX_SOFTWARE]

    def heal(self) -> None:
        """End every fault: all servers and processes run, and every way is open."""
        for proxy in self.links:
            proxy.set(Mode.PASS)
        for node in self.nodes:
            if node.is_frozen:
                node.thaw()
            if not node.runs:
                node.start()
        wait_until(self.serves, START_SECONDS)

    def log(self, name: str) -> str:
        """What a process wrote."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def close(self) -> None:
        """End everything that was started here."""
        for node in [*self.workers, *([self.api] if hasattr(self, "api") else [])]:
            node.kill()
        self._loop.close()
        self.redis.kill()
        self.database.stop()

    def _node(self, name: str, *arguments: str) -> Node:
        url, database = self.database.link(self._loop)
        redis = Proxy(self._loop, self.redis.address)
        environment = self._settings | {
            "DATABASE_URL": url,
            "REDIS_URL": f"redis://127.0.0.1:{redis.port}/0",
            "BATCHMILL_BLOB_URL": str(self.folder / "files"),
            "BATCHMILL_MODEL": "noop",
            "BATCHMILL_AUTH": "open",
        }
        log, state_dir = self.folder / f"{name}.log", self.folder / name
        return Node(name, arguments, environment, log, redis, database, self._mutants, state_dir)
