"""The database's clock."""

import time

from sqlalchemy import func, select

from models.columns import now
from models.database import Database
from models.key_store import KeyStore
from models.tables import api_keys


def test_time_is_read_back_exactly(database: Database) -> None:
    """Pages go on after a time that was read. On SQLite three of four times had come back changed."""
    keys = KeyStore(database)
    for _ in range(20):
        record = keys.create("team")[1]
        time.sleep(0.001)
        with database.read() as connection:
            same = select(func.count()).where(api_keys.c.created_at == record.created_at)
            assert connection.scalar(same) == 1


def test_time_is_now(database: Database) -> None:
    with database.read() as connection:
        moment = connection.scalar(select(now()))

    assert moment is not None
    assert abs(moment.timestamp() - time.time()) < 60
