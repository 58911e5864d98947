"""The schema's history. `upgrade` makes any older database, or an empty one, what this version needs."""

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from models.database import Database
from models.patience import be_patient

_LOCK_KEY = 0x6261746368  # "batch": one migration at a time on PostgreSQL


def upgrade(database: Database) -> None:
    """Bring the schema to this version. Several processes may call it at once."""
    _run(database, lambda config: command.upgrade(config, "head"))


def downgrade(database: Database, revision: str) -> None:
    """Take the schema back to a revision; `base` removes every table and what is in it."""
    _run(database, lambda config: command.downgrade(config, revision))


def is_current(database: Database) -> bool:
    """Whether the schema is what this version needs."""
    with database.read() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
    return revision == ScriptDirectory.from_config(_config()).get_current_head()


def _run(database: Database, migrate: Callable[[Config], None]) -> None:
    config = _config()
    with database.transaction() as connection:
        _wait_for_others(connection)
        config.attributes["connection"] = connection
        migrate(config)


def _wait_for_others(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":  # a write transaction of SQLite is alone as it is
        connection.execute(text("SET LOCAL statement_timeout = 0"))  # an index on a large table takes its time
        be_patient(connection)
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
