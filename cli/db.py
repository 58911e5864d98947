"""`batchmill db`: the schema of the database the settings name."""

import sys

from models import migrations
from models.database import Database
from models.settings import Settings


def open_upgraded(url: str) -> Database:
    """Connect and bring the schema to this version's: the single-machine commands keep their own database."""
    database = Database(url)
    if not migrations.is_current(database):
        migrations.upgrade(database)
    return database


def upgrade(settings: Settings) -> None:
    """Bring the schema to this version's."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    open_upgraded(settings.database)
    sys.stderr.write("the database is at this version's schema\n")


def check(settings: Settings) -> int:
    """Exit status 0 when the schema is this version's."""
    if migrations.is_current(Database(settings.database)):
        sys.stderr.write("the database is at this version's schema\n")
        return 0
    sys.stderr.write("the database is not at this version's schema: run `batchmill db upgrade`\n")
    return 1
