"""The API keys in the database: made, listed, revoked, found. Rows are never removed: a revoked key stays known."""

from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row, insert, or_, select, tuple_, update

from models.columns import from_now, now
from models.database import Database
from models.errors import NotFound
from models.keys import check_tenant, is_key_id, new_key, parse_key
from models.records import KeyRecord
from models.tables import api_keys

TOUCH_SECONDS = 300.0  # how exact last_used_at is: a write for each request would cost more than the request


class KeyStore:
    """Keys and whose they are. Two keys of one tenant see the same jobs: that is how a key is replaced."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def create(self, tenant: str, *, is_admin: bool = False, lasts: timedelta | None = None) -> tuple[str, KeyRecord]:
        """Make a key for a tenant; the key itself is in this answer and nowhere else. Raises RequestError."""
        key = new_key()
        presented = parse_key(key)
        assert presented is not None, "a new key has the form of a key"
        statement = insert(api_keys).values(
            id=presented.id,
            tenant=check_tenant(tenant),
            digest=presented.digest,
            is_admin=is_admin,
            created_at=now(),
            expires_at=None if lasts is None else from_now(lasts.total_seconds()),
        )
        rows = self.database.write(lambda connection: connection.execute(statement.returning(api_keys)).one())
        return key, _record(rows)

    def list(self, *, after: str | None = None, limit: int = 100) -> list[KeyRecord]:
        """Read keys of every tenant, newest first, from the one after `after`. Raises NotFound for an unknown one."""
        query = select(api_keys).order_by(api_keys.c.created_at.desc(), api_keys.c.id.desc()).limit(limit)
        with self.database.read() as connection:
            if after is not None:
                last = _by_id(connection, after) if is_key_id(after) else None
                if last is None:
                    raise NotFound
                place = (api_keys.c.created_at, api_keys.c.id)
                there = tuple_(last.created_at, last.id, types=[column.type for column in place])
                query = query.where(tuple_(*place) < there)
            return [_record(row) for row in connection.execute(query)]

    def revoke(self, id: str) -> KeyRecord | None:
        """Have a key refused from now on; one revoked already keeps its time. None: no such key."""

        def work(connection: Connection) -> Row[Any] | None:
            this = (api_keys.c.id == id) & api_keys.c.revoked_at.is_(None)
            connection.execute(update(api_keys).where(this).values(revoked_at=now()))
            return _by_id(connection, id)

        row = self.database.write(work) if is_key_id(id) else None  # PostgreSQL takes no NUL
        return None if row is None else _record(row)

    def find(self, id: str) -> KeyRecord | None:
        """Read a key that is good now: neither revoked nor expired, by the database's clock."""
        lasts = or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now())
        query = select(api_keys).where(api_keys.c.id == id, api_keys.c.revoked_at.is_(None), lasts)
        with self.database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _record(row)

    def exists(self) -> bool:
        """Whether a key was ever made. Revoking the last one opens no door."""
        with self.database.read() as connection:
            return connection.execute(select(api_keys.c.id).limit(1)).first() is not None

    def touch(self, id: str) -> None:
        """Note that a key is in use, unless that was noted within TOUCH_SECONDS."""
        long_ago = or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < from_now(-TOUCH_SECONDS))
        statement = update(api_keys).where(api_keys.c.id == id, long_ago).values(last_used_at=now())
        self.database.write(lambda connection: connection.execute(statement))


def _by_id(connection: Connection, id: str) -> Row[Any] | None:
    return connection.execute(select(api_keys).where(api_keys.c.id == id)).one_or_none()


def _record(row: Row[Any]) -> KeyRecord:
    return KeyRecord(**row._mapping)
