"""Database library errors become ours, with the cause kept; whatever is not recognised is a bug and passes through."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from models.errors import (
    BatchmillError,
    ConfigurationError,
    DatabaseBusy,
    DatabaseUnavailable,
    Overloaded,
    StorageFull,
    TransactionAborted,
)

MIGRATE = "the database has not the tables this version needs; run `batchmill db upgrade`"
MAX_REASON_CHARS = 200

# PostgreSQL's SQLSTATE, longest match first: https://www.postgresql.org/docs/current/errcodes-appendix.html
_SQLSTATES: dict[str, type[BatchmillError]] = {
    "40001": TransactionAborted,  # serialization_failure
    "40P01": TransactionAborted,  # deadlock_detected
    "53100": StorageFull,
    "53": Overloaded,  # too many connections, out of memory
    "55P03": DatabaseBusy,  # lock_not_available
    "57014": DatabaseBusy,  # query_canceled: statement_timeout
    "57P": DatabaseUnavailable,  # shutdown, crash, cannot connect now
    "25P": DatabaseUnavailable,  # idle in transaction too long: the session is gone
    "58": StorageFull,  # I/O error of the server's disk
    "08": DatabaseUnavailable,
}
# SQLite's primary result codes: https://www.sqlite.org/rescode.html
_SQLITE_CODES: dict[int, type[BatchmillError]] = {
    5: DatabaseBusy,  # SQLITE_BUSY
    6: DatabaseBusy,  # SQLITE_LOCKED
    10: DatabaseUnavailable,  # SQLITE_IOERR
    13: StorageFull,  # SQLITE_FULL
}
_SQLITE_SETUP_CODES = {8: "is read-only", 14: "cannot be opened", 11: "is damaged", 26: "is not a SQLite database"}


@contextmanager
def translated() -> Iterator[None]:
    """Turn errors of the database library, the driver and the lock file into ours."""
    try:
        yield
    except DBAPIError as error:
        ours = _of_sqlite(error) if hasattr(error.orig, "sqlite_errorcode") else _of_postgresql(error)
        if ours is None:
            raise
        raise ours from error
    except PoolTimeout as error:
        raise Overloaded from error


def of_os_error(error: OSError) -> BatchmillError:
    """What an error of the file beside a SQLite database means."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull()
    return ConfigurationError(f"the database folder cannot be used: {error.strerror}: {error.filename}")


def _of_sqlite(error: DBAPIError) -> BatchmillError | None:
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    if code in _SQLITE_SETUP_CODES:
        return ConfigurationError(f"the database file of DATABASE_URL {_SQLITE_SETUP_CODES[code]}")
    if code in _SQLITE_CODES:
        return _SQLITE_CODES[code]()
    return ConfigurationError(MIGRATE) if _lacks_a_table(str(error.orig)) else None


def _of_postgresql(error: DBAPIError) -> BatchmillError | None:
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return DatabaseUnavailable(f"the database does not answer: {_reason(error)}") if _is_lost(error) else None
    if state in ("42P01", "42703"):  # undefined table, undefined column
        return ConfigurationError(MIGRATE)
    if state[:2] in ("28", "3D"):  # wrong user or password, no such database
        return ConfigurationError(f"the database refused the connection: {_reason(error)}")
    for length in (5, 3, 2):
        if state[:length] in _SQLSTATES:
            return _SQLSTATES[state[:length]]()
    return None


def _is_lost(error: DBAPIError) -> bool:
    """By name: the driver is not imported where it is not used. What is a kind of that error counts too."""
    kinds = {kind.__name__ for kind in type(error.orig).__mro__}
    return error.connection_invalidated or "OperationalError" in kinds


def _lacks_a_table(message: str) -> bool:
    return message.startswith("no such table") or "has no column" in message or "no such column" in message


def _reason(error: DBAPIError) -> str:
    """The driver's own words on one line."""
    return " ".join(str(error.orig).split())[:MAX_REASON_CHARS] or "no reason given"
