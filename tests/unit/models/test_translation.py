"""What an error of the driver becomes."""

import errno
import sqlite3

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from models import errors
from models.patience import NoAnswer
from models.translation import of_os_error, translated


def wrapped(cause: Exception) -> DBAPIError:
    return DBAPIError("SELECT 1", {}, cause, None)  # type: ignore[arg-type]


def postgresql_error(state: str | None, text: str = "why") -> psycopg.Error:
    kind = type("Raised", (psycopg.OperationalError,), {"sqlstate": state})
    error = kind(text)
    assert isinstance(error, psycopg.Error)
    return error


def sqlite_error(code: int, text: str = "why") -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("40001", errors.TransactionAborted),
        ("40P01", errors.TransactionAborted),
        ("53100", errors.StorageFull),
        ("53300", errors.Overloaded),
        ("55P03", errors.DatabaseBusy),
        ("57014", errors.DatabaseBusy),
        ("57P01", errors.DatabaseUnavailable),
        ("25P03", errors.DatabaseUnavailable),
        ("08006", errors.DatabaseUnavailable),
        ("28P01", errors.ConfigurationError),
        ("3D000", errors.ConfigurationError),
        ("42P01", errors.ConfigurationError),
    ],
)
def test_postgresql_states(state: str, expected: type[Exception]) -> None:
    with pytest.raises(expected) as caught, translated():
        raise wrapped(postgresql_error(state))

    assert isinstance(caught.value.__cause__, DBAPIError)


@pytest.mark.parametrize("kind", [psycopg.OperationalError, psycopg.errors.ConnectionTimeout, NoAnswer])
def test_connection_that_fails_before_it_is_there_is_unavailable(kind: type[psycopg.Error]) -> None:
    with pytest.raises(errors.DatabaseUnavailable), translated():
        raise wrapped(kind("the server does not answer"))


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (5, "database is locked", errors.DatabaseBusy),
        (517, "database is locked", errors.DatabaseBusy),  # SQLITE_BUSY_SNAPSHOT
        (13, "database or disk is full", errors.StorageFull),
        (10, "disk I/O error", errors.DatabaseUnavailable),
        (8, "attempt to write a readonly database", errors.ConfigurationError),
        (14, "unable to open database file", errors.ConfigurationError),
        (26, "file is not a database", errors.ConfigurationError),
        (1, "no such table: jobs", errors.ConfigurationError),
    ],
)
def test_sqlite_codes(code: int, text: str, expected: type[Exception]) -> None:
    with pytest.raises(expected), translated():
        raise wrapped(sqlite_error(code, text))


def test_a_connection_refused_says_why_in_one_line() -> None:
    with pytest.raises(errors.DatabaseUnavailable, match=r"Connection refused$") as caught, translated():
        raise wrapped(psycopg.OperationalError("Multiple attempts\nConnection refused"))

    assert "\n" not in caught.value.message


def test_no_free_connection_is_overloaded() -> None:
    with pytest.raises(errors.Overloaded), translated():
        raise PoolTimeout


def test_a_bug_passes_through() -> None:
    with pytest.raises(IntegrityError), translated():
        raise IntegrityError("INSERT", {}, psycopg.errors.UniqueViolation("twice"))
    with pytest.raises(DBAPIError), translated():
        raise wrapped(sqlite_error(19, "UNIQUE constraint failed"))


def test_a_full_disk_is_told_from_a_forbidden_folder() -> None:
    assert isinstance(of_os_error(OSError(errno.ENOSPC, "No space left on device", "x")), errors.StorageFull)
    assert isinstance(of_os_error(OSError(errno.EACCES, "Permission denied", "x")), errors.ConfigurationError)
