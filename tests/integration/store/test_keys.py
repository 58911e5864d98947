"""API keys in the database, on both."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from models.database import Database
from models.errors import NotFound
from models.ids import uuid7
from models.key_store import KeyStore
from models.keys import parse_key
from models.tables import api_keys


@pytest.fixture
def keys(database: Database) -> KeyStore:
    return KeyStore(database)


def test_key_itself_is_not_stored(keys: KeyStore, database: Database) -> None:
    key, record = keys.create("team", is_admin=True, lasts=timedelta(days=30))

    presented = parse_key(key)
    assert presented is not None
    assert (record.id, record.digest) == (presented.id, presented.digest)
    assert (record.tenant, record.is_admin, record.revoked_at) == ("team", True, None)
    assert record.expires_at is not None
    assert abs(record.expires_at - record.created_at - timedelta(days=30)) < timedelta(seconds=1)
    with database.read() as connection:
        assert key[12:] not in str(connection.execute(select(api_keys)).all())


def test_key_is_found_until_it_is_revoked(keys: KeyStore) -> None:
    _, first = keys.create("team")
    _, second = keys.create("team")

    revoked = keys.revoke(first.id)
    again = keys.revoke(first.id)

    assert revoked is not None
    assert revoked.revoked_at is not None
    assert again == revoked
    assert keys.find(first.id) is None
    assert keys.find(second.id) == second
    assert keys.revoke("nothing1") is None


@pytest.mark.parametrize("id", ["\0", "a\0bcdefg", "", "x" * 9000, "ABCDEFGH"])
def test_what_is_no_id_of_a_key_names_none(keys: KeyStore, id: str) -> None:
    keys.create("team")

    assert keys.revoke(id) is None
    with pytest.raises(NotFound):
        keys.list(after=id)


def test_key_is_found_until_it_expires(keys: KeyStore, database: Database) -> None:
    _, record = keys.create("team", lasts=timedelta(hours=1))
    assert keys.find(record.id) == record

    with database.transaction() as connection:
        connection.execute(update(api_keys).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))

    assert keys.find(record.id) is None


def test_first_key_exists_for_ever(keys: KeyStore) -> None:
    """Revoking the last key must not open the door again."""
    assert not keys.exists()
    _, record = keys.create("team")
    keys.revoke(record.id)

    assert keys.exists()


def test_keys_are_listed_newest_first_by_pages(keys: KeyStore) -> None:
    made = [keys.create(f"team-{index}")[1] for index in range(5)]

    first = keys.list(limit=2)
    second = keys.list(limit=2, after=first[-1].id)
    third = keys.list(limit=2, after=second[-1].id)

    listed = [*first, *second, *third]
    assert {record.id for record in listed} == {record.id for record in made}
    assert listed == sorted(made, key=lambda record: (record.created_at, record.id), reverse=True)
    with pytest.raises(NotFound):
        keys.list(after=uuid7().hex[:8])


def test_use_of_a_key_is_noted_seldom(keys: KeyStore) -> None:
    _, record = keys.create("team")

    keys.touch(record.id)
    noted = keys.find(record.id)
    keys.touch(record.id)

    assert noted is not None
    assert noted.last_used_at is not None
    assert keys.find(record.id) == noted
