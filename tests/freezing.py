"""Stopping processes without stopping the world."""

from collections.abc import Iterator
from contextlib import contextmanager

from models.database import Database
from models.engines import WriteLock

LOCK_SECONDS = 60.0


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
