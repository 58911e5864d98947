"""How each database is opened: driver settings, pragmas, and SQLite's lock file. Knows no table."""

import fcntl
import math
import os
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from models.errors import ConfigurationError, DatabaseBusy
from models.patience import CONNECT_SECONDS, make_patient
from models.translation import of_os_error

POOL_WAIT_SECONDS = 3.0  # then the service says that it is overloaded
IDLE_IN_TRANSACTION_SECONDS = 10  # ours last milliseconds; a stopped worker must not keep locks, or pin a snapshot
MIN_SQLITE = (3, 35, 0)  # UPDATE ... RETURNING
FIXED_SQLITE = (3, 51, 3)  # from 3.7.0 on a WAL that two connections write and reset together may be damaged
WRITES = "batchmill_writes"  # execution option of a connection that will write


def parse_url(text: str) -> URL:
    """Read sqlite:///path or postgresql://...; raises ConfigurationError, which never shows the password."""
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise ConfigurationError("DATABASE_URL must look like sqlite:///path or postgresql://user@host/name") from error
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise ConfigurationError(f"DATABASE_URL names {url.drivername}; use postgresql:// or sqlite:///")
    if not url.database or url.database == ":memory:":
        raise ConfigurationError("DATABASE_URL must name a file: sqlite:///path")
    return url


def postgresql_engine(url: URL, *, pool_size: int, statement_timeout_seconds: float) -> Engine:
    """An engine for PostgreSQL by psycopg 3. No connection is made yet."""
    settings = {
        "statement_timeout": f"{int(statement_timeout_seconds * 1000)}",
        "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_SECONDS * 1000}",
        # A plan kept from when the tables were small reads them whole once they are large. Planning takes 0.3 ms.
        "plan_cache_mode": "force_custom_plan",
    }
    connect = {
        "connect_timeout": CONNECT_SECONDS,
        "keepalives_idle": 10,  # seconds; a silent network is noticed in half a minute, not in two hours
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
    }
    connect |= {name: url.query[name] for name in connect.keys() & url.query.keys()}
    engine = create_engine(
        url.difference_update_query(connect.keys()),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=POOL_WAIT_SECONDS,
        pool_pre_ping=True,
        hide_parameters=True,  # prompts stay out of error texts
        connect_args=connect,
    )
    limit_is_ours = "options" not in url.query
    make_patient(engine, statement_seconds=statement_timeout_seconds if limit_is_ours else math.inf)
    return engine


def sqlite_engine(url: URL, lock: "WriteLock", *, pool_size: int, busy_timeout_seconds: float) -> Engine:
    """An engine for SQLite that says itself where transactions begin."""
    if sqlite3.sqlite_version_info < MIN_SQLITE:
        raise ConfigurationError(f"SQLite {sqlite3.sqlite_version} is too old; 3.35 or newer is needed")
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=POOL_WAIT_SECONDS,
        hide_parameters=True,
        connect_args={"timeout": busy_timeout_seconds},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        _prepare_sqlite(connection, lock)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A deferred transaction that turns to writing fails at once when another wrote since: say so from the start.
        writes = connection.get_execution_options().get(WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def sqlite_warning() -> str | None:
    """What is to be known of the SQLite library in use; None: nothing."""
    if sqlite3.sqlite_version_info >= FIXED_SQLITE:
        return None
    return (
        f"SQLite {sqlite3.sqlite_version} has the WAL-reset bug (fixed in 3.51.3); our file lock around writes avoids "
        "it: let no other program write to the database"
    )


def _prepare_sqlite(connection: Any, lock: "WriteLock") -> None:  # noqa: ANN401 - sqlite3's
    """Set a new connection up; the first one ever turns the write-ahead log on, alone."""
    connection.isolation_level = None  # the driver begins no transaction by itself
    cursor = connection.cursor()
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        with lock.held():
            cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # accepted means on disk
    cursor.execute("PRAGMA cache_size = -16384")  # KiB
    cursor.execute("PRAGMA journal_size_limit = 67108864")  # bytes
    cursor.close()


class WriteLock:
    """The lock file beside a SQLite database: one writer at a time among all processes and threads.

    SQLite's own lock is polled with growing sleeps and starves writers: with this one four workers wrote four times
    as much. It also keeps two writers from checkpointing together, which damages databases before SQLite 3.51.3.
    Not reentrant. The file is opened for each use, so that neither fork nor threads share the lock by accident.
    """

    def __init__(self, database: str, timeout_seconds: float) -> None:
        self._path = f"{database}.lock"
        self._timeout_seconds = timeout_seconds

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock for the block. Raises DatabaseBusy when it is not to be had in time."""
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise of_os_error(error) from error
        try:
            self._acquire(file)
            yield
        finally:
            os.close(file)  # and so unlocked

    def _acquire(self, file: int) -> None:
        """Poll: a blocking flock has no timeout, and its holder may be a stopped process."""
        give_up_at = time.monotonic() + self._timeout_seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > give_up_at:
                    raise DatabaseBusy from None
                time.sleep(random.uniform(0.0002, 0.001))  # a transaction takes a few milliseconds
            else:
                return
