"""Transactions against real servers: what is kept, what is tried again, what each failure is called."""

import socket
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from models.database import Database
from models.errors import (
    ConfigurationError,
    DatabaseBusy,
    DatabaseUnavailable,
    Overloaded,
    StorageFull,
    TransactionAborted,
)
from models.store import Store
from tests.integration.store.making import new_job, new_jobs


def test_an_error_rolls_the_transaction_back(database: Database, store: Store) -> None:
    job = new_job()
    store.submit([job])

    def delete_and_fail(connection: Connection) -> None:
        connection.execute(text("DELETE FROM jobs"))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        database.write(delete_and_fail)

    assert store.job(job.id) is not None


def test_a_transaction_that_lost_runs_again_from_its_start(database: Database) -> None:
    tries: list[int] = []

    def work(connection: Connection) -> int:
        tries.append(1)
        if len(tries) < 3:
            raise TransactionAborted
        return len(tries)

    assert database.write(work) == 3


def test_a_transaction_that_always_loses_gives_up(database: Database) -> None:
    tries: list[int] = []

    def work(connection: Connection) -> None:
        tries.append(1)
        raise TransactionAborted

    with pytest.raises(TransactionAborted):
        database.write(work)

    assert 3 <= len(tries) <= 10


def test_postgresql_breaks_a_deadlock_and_both_get_through(postgresql_url: str) -> None:
    database = Database(postgresql_url)
    store = Store(database)
    jobs = new_jobs(2)
    store.submit(jobs)
    both_hold_one = threading.Barrier(2)
    tries: list[int] = []

    def work(first: int) -> None:
        def lock_both(connection: Connection) -> None:
            tries.append(first)
            update = text("UPDATE jobs SET priority = priority WHERE id = :id")
            connection.execute(update, {"id": jobs[first].id})
            if len(tries) <= 2:
                both_hold_one.wait(10)
            connection.execute(update, {"id": jobs[1 - first].id})

        database.write(lock_both)

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(tries) == 3
    database.dispose()


def test_an_unreachable_postgresql_is_unavailable_within_seconds() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening: refused
        database = Database(f"postgresql://u:secret@127.0.0.1:{taken.getsockname()[1]}/d")

        with pytest.raises(DatabaseUnavailable) as caught:
            Store(database).submit([new_job()])

    assert "secret" not in caught.value.message
    assert caught.value.status == 503


def test_a_postgresql_that_does_not_answer_is_unavailable_within_seconds() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        database = Database(f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d")
        started = time.monotonic()

        with pytest.raises(DatabaseUnavailable):
            Store(database).queue_depth()

    assert time.monotonic() - started < 6


def test_a_database_that_is_not_there_is_a_configuration_error(postgresql_server: str) -> None:
    database = Database(postgresql_server.replace("/postgres?", "/missing?"))

    with pytest.raises((ConfigurationError, DatabaseUnavailable), match='"missing" does not exist'):
        Store(database).queue_depth()


def test_a_lost_connection_is_replaced(postgresql_url: str) -> None:
    database = Database(postgresql_url)
    store = Store(database)

    def lose_connection(connection: Connection) -> None:
        own = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        kill_backend(postgresql_url, own)
        connection.execute(text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable):
        database.write(lose_connection)

    assert store.queue_depth() == {}
    database.dispose()


def kill_backend(url: str, pid: int) -> None:
    other = Database(url)
    with other.transaction() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    other.dispose()


def test_a_slow_statement_is_busy(postgresql_url: str) -> None:
    database = Database(postgresql_url, statement_timeout_seconds=0.1)

    with pytest.raises(DatabaseBusy), database.read() as connection:
        connection.execute(text("SELECT pg_sleep(10)"))

    database.dispose()


def test_no_free_connection_is_overloaded(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.engines.POOL_WAIT_SECONDS", 0.1)
    database = Database(database_url, pool_size=1)

    with database.read(), database.read(), pytest.raises(Overloaded), database.read():
        pass

    database.dispose()


def test_a_sqlite_locked_by_another_program_is_busy(sqlite_url: str) -> None:
    database = Database(sqlite_url, busy_timeout_seconds=0.2)
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(DatabaseBusy):
        Store(database).submit([new_job()])

    other.execute("ROLLBACK")
    Store(database).submit([new_job()])
    other.close()
    database.dispose()


def test_sqlite_readers_wait_for_no_writer(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with database.transaction() as writing:
        writing.execute(text("DELETE FROM jobs"))

        assert Store(database).queue_depth() == {}

    database.dispose()


def test_sqlite_writes_reach_the_disk_before_the_answer(sqlite_url: str) -> None:
    database = Database(sqlite_url)

    with database.read() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")
        }

    assert settings == {"journal_mode": "wal", "synchronous": 2}
    database.dispose()


def test_a_full_disk_is_told_and_a_roomier_one_goes_on(sqlite_url: str) -> None:
    database = Database(sqlite_url, pool_size=1)
    store = Store(database)
    with database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 20}")

    with pytest.raises(StorageFull):
        store.submit(new_jobs(5000))

    with database.read() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    store.submit(new_jobs(10))
    assert sum(store.queue_depth().values()) == 10
    database.dispose()


@pytest.mark.parametrize("content", [b"not a database at all" * 100])
def test_a_file_that_is_no_database_is_a_configuration_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(content)

    with pytest.raises(ConfigurationError, match="not a SQLite database"):
        Store(Database(f"sqlite:///{path}")).queue_depth()


def test_a_missing_folder_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        Store(Database(f"sqlite:///{tmp_path / 'no' / 'x.db'}")).submit([new_job()])
