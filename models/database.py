"""Transactions, with the library's errors translated into ours. Knows no table."""

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

from sqlalchemy import Connection

from models.engines import WRITES, WriteLock, parse_url, postgresql_engine, sqlite_engine, sqlite_warning
from models.errors import TransactionAborted
from models.translation import translated

log = logging.getLogger(__name__)

MAX_TRIES = 6  # of a transaction that lost to another one; each is over in milliseconds
POOL_SIZE = 10
STATEMENT_TIMEOUT_SECONDS = 30.0
REQUEST_STATEMENT_SECONDS = 10.0  # of a statement for which a client waits
BUSY_TIMEOUT_SECONDS = 5.0

_Result = TypeVar("_Result")


class Database:
    """One database, PostgreSQL or SQLite. A write is one transaction; on SQLite a file lock lets one in at a time."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = POOL_SIZE,
        statement_timeout_seconds: float = STATEMENT_TIMEOUT_SECONDS,
        busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS,
    ) -> None:
        parsed = parse_url(url)
        self._lock: WriteLock | None = None
        if parsed.get_backend_name() == "sqlite":
            self._lock = WriteLock(parsed.database or "", busy_timeout_seconds)
            self.engine = sqlite_engine(
                parsed, self._lock, pool_size=pool_size, busy_timeout_seconds=busy_timeout_seconds
            )
        else:
            self.engine = postgresql_engine(
                parsed, pool_size=pool_size, statement_timeout_seconds=statement_timeout_seconds
            )

    @property
    def dialect(self) -> str:
        """`postgresql` or `sqlite`."""
        return self.engine.dialect.name

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A write transaction: committed at the end of the block, rolled back by an exception."""
        with translated(), self.engine.connect() as connection:
            connection = connection.execution_options(**{WRITES: True})
            with self._lock.held() if self._lock else nullcontext(), connection.begin():
                yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads; on SQLite it waits for no writer."""
        with translated(), self.engine.connect() as connection, connection.begin():
            yield connection

    def write(self, work: Callable[[Connection], _Result]) -> _Result:
        """Run `work` in one write transaction, and again from its start when the database chose another one.

        A connection lost during COMMIT is not tried again: only the caller knows whether repeating is harmless.
        """
        for attempt in range(1, MAX_TRIES):
            try:
                with self.transaction() as connection:
                    return work(connection)
            except TransactionAborted:
                time.sleep(random.uniform(0, 0.01 * 2**attempt))
        with self.transaction() as connection:
            return work(connection)

    def log_warnings(self) -> None:
        """Say what is to be known of the database's library; for processes that keep running."""
        warning = sqlite_warning() if self.dialect == "sqlite" else None
        if warning is not None:
            log.warning("%s", warning, extra={"action": "sqlite_version"})

    def dispose(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()
