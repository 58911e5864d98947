"""Migrations lead to the tables that the code declares, up and down, on both databases."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from models import migrations
from models.database import Database
from models.errors import ConfigurationError
from models.store import Store
from models.tables import metadata
from tests.integration.store.making import new_job

# What reflection leaves out on PostgreSQL: conditions of indexes, CHECKs, storage settings.
POSTGRESQL_SCHEMA = """
    SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL
    SELECT 'constraint', conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'options', relname, array_to_string(reloptions, ',')
    FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'column', table_name || '.' || column_name, data_type || is_nullable
    FROM information_schema.columns WHERE table_schema = 'public'
"""
SQLITE_SCHEMA = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"


@pytest.fixture(params=["postgresql", "sqlite"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Each database in turn, without tables."""
    if request.param == "postgresql":
        url = str(request.getfixturevalue("empty_postgresql_url"))
    else:
        url = f"sqlite:///{tmp_path / 'empty.db'}"
    database = Database(url)
    yield database
    database.dispose()


def schema(database: Database) -> set[tuple[str, str, str]]:
    """Everything that makes the schema, spelled the same whoever made it."""
    query = POSTGRESQL_SCHEMA if database.dialect == "postgresql" else SQLITE_SCHEMA
    with database.read() as connection:
        rows = connection.execute(text(query)).all()
    own = [row for row in rows if "alembic" not in row[1]]
    return {(kind, name, _one_spelling(definition or "")) for kind, name, definition in own}


def _one_spelling(definition: str) -> str:
    """SQLite keeps the statement's own text: blanks and the order of its parts are its writers'. A column that was
    added later stands behind the constraints."""
    body = re.sub(r"\s+", " ", definition).replace("( ", "(").replace(" )", ")")
    head, _, inner = body.partition("(")
    return f"{head}({', '.join(sorted(_parts(inner.removesuffix(')'))))})"


def _parts(text: str) -> list[str]:
    """Cut at the commas outside parentheses."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def test_upgrading_an_empty_database_gives_what_the_code_declares(empty: Database) -> None:
    with empty.transaction() as connection:
        metadata.create_all(connection)
    declared = schema(empty)
    with empty.transaction() as connection:
        metadata.drop_all(connection)

    migrations.upgrade(empty)

    assert schema(empty) == declared
    with empty.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_down_and_up_again(empty: Database) -> None:
    assert not migrations.is_current(empty)
    migrations.upgrade(empty)
    migrations.upgrade(empty)
    assert migrations.is_current(empty)
    made = schema(empty)

    migrations.downgrade(empty, "base")
    assert not migrations.is_current(empty)
    with empty.read() as connection:
        assert inspect(connection).get_table_names() == ["alembic_version"]

    migrations.upgrade(empty)
    assert schema(empty) == made


def test_several_may_upgrade_at_once(empty: Database) -> None:
    failures: list[Exception] = []

    def upgrade() -> None:
        try:
            migrations.upgrade(empty)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=upgrade) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert migrations.is_current(empty)


def test_a_database_without_tables_says_what_to_do(empty: Database) -> None:
    with pytest.raises(ConfigurationError, match="batchmill db upgrade"):
        Store(empty).submit([new_job()])
