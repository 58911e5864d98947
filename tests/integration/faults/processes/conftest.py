"""Stages on each database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.faults.processes.stage import Stage


@pytest.fixture
def stage(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Stage]:
    """A stage on each database in turn."""
    stage = Stage(database_url, redis_url, tmp_path)
    yield stage
    stage.close()


@pytest.fixture
def postgresql_stage(postgresql_url: str, redis_url: str, tmp_path: Path) -> Iterator[Stage]:
    """A stage on PostgreSQL, where the connection to the database is what is tested."""
    stage = Stage(postgresql_url, redis_url, tmp_path)
    yield stage
    stage.close()


@pytest.fixture
def sqlite_stage(sqlite_url: str, redis_url: str, tmp_path: Path) -> Iterator[Stage]:
    """A stage on SQLite, where the database is not what is tested."""
    stage = Stage(sqlite_url, redis_url, tmp_path)
    yield stage
    stage.close()
