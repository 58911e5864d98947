"""A PostgreSQL that is partitioned by week."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from models.ids import uuid7

PARTITIONS = Path(__file__).resolve().parents[3] / "deploy/postgresql-partitions.sql"


@pytest.fixture(scope="session")
def partitioned_template(postgresql_server: str, postgresql_template: str) -> str:
    """The name of a migrated and partitioned database."""
    name = "batchmill_partitioned"
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{postgresql_template}"')
    with psycopg.connect(postgresql_server.replace("/postgres?", f"/{name}?")) as connection:
        connection.execute(PARTITIONS.read_bytes())
    return name


@pytest.fixture
def partitioned_url(postgresql_server: str, partitioned_template: str) -> Iterator[str]:
    """A partitioned database of this test's own."""
    name = f"test_{uuid7().hex}"
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{partitioned_template}" STRATEGY FILE_COPY')
        yield postgresql_server.replace("/postgres?", f"/{name}?")
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
