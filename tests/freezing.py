"""Stopping processes without stopping the world."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.database import Database
from models.engines import WriteLock
from tests.waiting import wait_until

LOCK_SECONDS = 60.0
STOPPED = {"T", "Z"}  # process states of /proc; the second has ended


def freeze(database_url: str, *pids: int) -> None:
    """SIGSTOP, so that the others can go on. Returns once every thread stands still: one that is about to get the lock
    of SQLite would else keep it."""
    with between_writes(database_url):
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: all(map(_stands_still, pids)))


def _stands_still(pid: int) -> bool:
    stats = Path(f"/proc/{pid}/task").glob("*/stat")
    return {stat.read_text().rpartition(") ")[2][0] for stat in stats} <= STOPPED


@contextmanager
def between_writes(database_url: str) -> Iterator[None]:
    """For the length of the block nobody writes to SQLite: a process that is stopped inside a write holds the lock, and
    nobody else could write until it goes on. PostgreSQL ends an idle transaction by itself."""
    database = Database(database_url, pool_size=1)
    try:
        if database.dialect == "sqlite":
            with WriteLock(database.engine.url.database or "", LOCK_SECONDS).held():
                yield
        else:
            yield
    finally:
        database.dispose()
