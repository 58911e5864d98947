"""Opening a database: the forms of its URL, the lock file of SQLite."""

import sqlite3
import threading
import time
from pathlib import Path

import pytest

from models.database import Database
from models.engines import WriteLock, parse_url
from models.errors import ConfigurationError, DatabaseBusy


@pytest.mark.parametrize("text", ["postgresql://u:p@h/d", "postgres://u:p@h/d", "postgresql+psycopg://u:p@h:5432/d"])
def test_each_postgresql_url_means_psycopg(text: str) -> None:
    assert parse_url(text).drivername == "postgresql+psycopg"


@pytest.mark.parametrize("text", ["", "not a url", "mysql://u:secret@h/d", "sqlite://", "sqlite:///:memory:"])
def test_another_url_is_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL") as caught:
        parse_url(text)

    assert "secret" not in caught.value.message


def test_an_old_sqlite_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))

    with pytest.raises(ConfigurationError, match="too old"):
        Database(f"sqlite:///{tmp_path / 'x.db'}")


def test_the_lock_lets_one_thread_in_at_a_time(tmp_path: Path) -> None:
    lock = WriteLock(str(tmp_path / "x.db"), timeout_seconds=5)
    inside: list[int] = []
    seen: list[int] = []

    def enter() -> None:
        for _ in range(20):
            with lock.held():
                inside.append(1)
                seen.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen == [1] * 80


def test_a_lock_that_stays_held_is_busy_after_its_timeout(tmp_path: Path) -> None:
    lock = WriteLock(str(tmp_path / "x.db"), timeout_seconds=0.05)

    with lock.held():
        started = time.monotonic()
        with pytest.raises(DatabaseBusy), lock.held():
            pass

    assert 0.05 <= time.monotonic() - started < 2


def test_the_lock_is_free_after_an_error(tmp_path: Path) -> None:
    lock = WriteLock(str(tmp_path / "x.db"), timeout_seconds=0.05)

    with pytest.raises(RuntimeError), lock.held():
        raise RuntimeError

    with lock.held():
        pass


def test_a_folder_that_is_not_there_is_a_configuration_error(tmp_path: Path) -> None:
    lock = WriteLock(str(tmp_path / "missing" / "x.db"), timeout_seconds=0.05)

    with pytest.raises(ConfigurationError, match="folder"), lock.held():
        pass
