"""Two transactions at once, the one always at the same place: all its statements done, its COMMIT not."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event

from models.database import Database
from models.engines import WRITES

LOCKED_SECONDS = 0.05  # a second transaction that is not done by then waits for the first one's locks
GIVE_UP_SECONDS = 30.0

Work = Callable[[], Any]


class Overlap:
    """Runs pairs on one database. On SQLite one after the other: with its one writer the second would only wait."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._threads = ThreadPoolExecutor(2)

    def run(self, first: Work, second: Work) -> tuple[Any, Any]:
        """Begin and end `second` while `first` has yet to commit, or let it wait for that."""
        if self._database.dialect == "sqlite":
            return first(), second()
        with self._stop_before_commit() as gate:
            one = self._threads.submit(gate.pass_through, first)
            gate.wait(one)
            other = self._threads.submit(second)
            wait([other], LOCKED_SECONDS)
            gate.open()
            return one.result(GIVE_UP_SECONDS), other.result(GIVE_UP_SECONDS)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    @contextmanager
    def _stop_before_commit(self) -> Iterator["Gate"]:
        gate = Gate()
        event.listen(self._database.engine, "commit", gate.before_commit)
        try:
            yield gate
        finally:
            gate.open()
            event.remove(self._database.engine, "commit", gate.before_commit)


class Gate:
    """Where the first transaction of one thread stands still."""

    def __init__(self) -> None:
        self._thread: int | None = None
        self._arrived, self._opened = threading.Event(), threading.Event()

    def pass_through(self, work: Work) -> Any:  # noqa: ANN401 - what the work returns
        """Do the work; its first write transaction stops here."""
        self._thread = threading.get_ident()
        try:
            return work()
        finally:
            self._arrived.set()

    def before_commit(self, connection: Connection) -> None:
        """Called by SQLAlchemy in the thread that commits."""
        is_write = connection.get_execution_options().get(WRITES)
        if is_write and threading.get_ident() == self._thread and not self._arrived.is_set():
            self._arrived.set()
            assert self._opened.wait(GIVE_UP_SECONDS)

    def wait(self, work: "Future[Any]") -> None:
        """Until the transaction is here, or its work is over."""
        assert self._arrived.wait(GIVE_UP_SECONDS), work

    def open(self) -> None:
        """Let it commit."""
        self._opened.set()
