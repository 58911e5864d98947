"""`batchmill keys`: the API keys in the database that the settings name."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import orjson

from api.rendering.keys import key_body, key_status
from cli.console import write_out
from cli.db import open_upgraded
from models import migrations
from models.database import Database
from models.errors import ConfigurationError, NotFound
from models.key_store import KeyStore
from models.records import KeyRecord
from models.settings import Settings

PAGE = 1000
MAX_DAYS = 3650
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_LIFETIME = re.compile(r"([1-9][0-9]{0,6})([mhd])", re.ASCII)


def create_key(settings: Settings, name: str, *, is_admin: bool, expires: str | None) -> None:
    """Make a key and print it, alone on stdout: this is the one time it can be seen. Raises RequestError."""
    lasts = None if expires is None else lifetime(expires)
    with _keys(settings) as keys:
        key, record = keys.create(name, is_admin=is_admin, lasts=lasts)
    scope = "an administrator" if is_admin else "a client"
    until = "" if record.expires_at is None else f" until {_moment(record.expires_at)}"
    where = f" in {settings.state_dir}" if settings.database_url is None else ""
    sys.stderr.write(f"key {record.id} of {record.tenant}, {scope}{until}, kept{where}; it is shown this once\n")
    write_out(key)


def list_keys(settings: Settings, *, as_json: bool) -> None:
    """Print every key, newest first: whose it is and whether it is good, never the key."""
    with _keys(settings) as keys:
        found = list(_all(keys))
    if as_json:
        write_out(orjson.dumps([key_body(key) for key in found], option=orjson.OPT_INDENT_2).decode())
        return
    rows = [("ID", "NAME", "SCOPE", "STATUS", "CREATED", "LAST USED", "EXPIRES"), *map(_columns, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        write_out("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def revoke_key(settings: Settings, id: str) -> None:
    """Have a key refused from now on, within seconds where a service runs. Raises NotFound."""
    with _keys(settings) as keys:
        record = keys.revoke(id)
    if record is None:
        raise NotFound(f"there is no key {id[:64]!r}; `batchmill keys list` shows the ids")
    sys.stderr.write(f"key {record.id} of {record.tenant} is revoked\n")


def lifetime(text: str, option: str = "--expires") -> timedelta:
    """How long something lasts: a whole number and m, h or d. Raises ConfigurationError, which names the option."""
    match = _LIFETIME.fullmatch(text)
    lasts = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else timedelta()
    if not timedelta() < lasts <= timedelta(days=MAX_DAYS):
        raise ConfigurationError(f"{option} takes a number and m, h or d, such as 30d, and at most {MAX_DAYS}d")
    return lasts


@contextmanager
def _keys(settings: Settings) -> Iterator[KeyStore]:
    """The keys. As `serve` does, the state directory's own database is made and upgraded here; a shared one is not."""
    if settings.database_url is None:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        database = open_upgraded(settings.database)
    else:
        database = Database(settings.database, pool_size=1)
    try:
        if not migrations.is_current(database):
            raise ConfigurationError("the database is not at this version's schema: run `batchmill db upgrade`")
        yield KeyStore(database)
    finally:
        database.dispose()


def _all(keys: KeyStore) -> Iterator[KeyRecord]:
    page = keys.list(limit=PAGE)
    while page:
        yield from page
        page = keys.list(limit=PAGE, after=page[-1].id)


def _columns(key: KeyRecord) -> tuple[str, ...]:
    times = (_moment(key.created_at), _moment(key.last_used_at), _moment(key.expires_at))
    return (key.id, key.tenant, "admin" if key.is_admin else "client", key_status(key), *times)


def _moment(time: datetime | None) -> str:
    return "-" if time is None else f"{time:%Y-%m-%d %H:%MZ}"
