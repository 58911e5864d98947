"""Connections to PostgreSQL that do not wait for ever: a server that stands still, or a network that swallows
everything, looks like one that works long, and no timeout of the server's own is told to anybody then."""

import math
import time
from collections.abc import Generator
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, event

CONNECT_SECONDS = 2  # libpq takes no less
PING_SECONDS = 1.0  # of a connection that was idle; with a new one in its place 3 s until its user is told
MARGIN_SECONDS = 2.0  # beyond the server's own limit to a statement


class NoAnswer(psycopg.OperationalError):
    """The server said nothing in time. The connection is closed; what was asked may have been done."""


class PatientConnection(psycopg.Connection[Any]):
    """A connection that is given up when an answer takes too long."""

    patience_seconds: float = CONNECT_SECONDS

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - psycopg's
        """As psycopg's, but bounded."""
        try:
            return super().wait(_bounded(gen, self.patience_seconds), *args, **kwargs)
        except NoAnswer:
            self.pgconn.finish()
            raise


def make_patient(engine: Engine, *, statement_seconds: float) -> None:
    """Bound every answer on an engine's connections. `statement_seconds` is the server's limit to a statement."""

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, args: list[Any], parameters: dict[str, Any]) -> PatientConnection:
        return PatientConnection.connect(*args, **parameters)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        _set(connection.connection.driver_connection, statement_seconds + MARGIN_SECONDS)

    @event.listens_for(engine, "checkin")
    def checkin(connection: object | None, _record: object) -> None:
        _set(connection, PING_SECONDS)


def be_patient(connection: Connection) -> None:
    """Within this transaction a statement may take any time."""
    _set(connection.connection.driver_connection, math.inf)


def _set(connection: object | None, seconds: float) -> None:
    if isinstance(connection, PatientConnection):  # None where it was lost; another kind is another database's
        connection.patience_seconds = seconds


def _bounded(steps: Generator[Any, Any, Any], seconds: float) -> Generator[Any, Any, Any]:
    """psycopg's steps between two looks at the socket; a look in vain is told by a false value."""
    ends = time.monotonic() + seconds
    try:
        ready = yield next(steps)
        while True:
            if not ready and time.monotonic() > ends:
                raise NoAnswer("the server does not answer")
            ready = yield steps.send(ready)
    except StopIteration as stop:
        return stop.value
