"""`batchmill doctor`: looks at everything a worker needs and says what to do about what is wrong."""

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator

from redis import Redis
from redis.exceptions import RedisError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.embedded import find_redis_server
from cli.finding import Finding, Verdict
from cli.model import find_model, is_cached
from models import migrations
from models.blobs import Blobs
from models.database import Database
from models.engines import sqlite_warning
from models.errors import BatchmillError, ConfigurationError
from models.eviction import eviction_warning
from models.settings import NOOP, Settings
from worker.engine.folders import is_hub_id

COLOURS: dict[Verdict, str] = {"ok": "green", "note": "yellow", "wrong": "red"}
MIN_FREE_BYTES = 1 << 30


def examine(settings: Settings) -> int:
    """Print the findings; exit status 1 if something is wrong."""
    checks: list[Callable[[Settings], Iterator[Finding]]] = [_state, _files, _database, _redis, _model]
    if importlib.util.find_spec("torch") is not None:
        from cli.machine import MACHINE_CHECKS

        checks += MACHINE_CHECKS
    findings = [finding for check in checks for finding in check(settings)]
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column()
    table.add_column(overflow="fold")  # a path is to be read whole
    for finding in findings:
        table.add_row(finding.subject, f"[{COLOURS[finding.verdict]}]{finding.verdict}[/]", escape(finding.text))
    Console().print(table)
    return int(any(finding.verdict == "wrong" for finding in findings))


def _state(settings: Settings) -> Iterator[Finding]:
    folder = next(path for path in (settings.state_dir, *settings.state_dir.resolve().parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK):
        yield Finding("state directory", "wrong", f"{folder} is not writable: give another with --state")
    elif free < MIN_FREE_BYTES:
        yield Finding("state directory", "note", f"only {free >> 20} MiB free in {settings.state_dir}")
    else:
        yield Finding("state directory", "ok", f"{settings.state_dir}, {free >> 30} GiB free")


def _files(settings: Settings) -> Iterator[Finding]:
    """Only a storage that was named is tried: the folder of the state directory is made by the service."""
    if settings.blob_url is None:
        yield Finding("files", "ok", "in the state directory")
        return
    try:
        Blobs(settings.blobs).prepare()
    except ConfigurationError as error:
        yield Finding("files", "wrong", error.message)
    else:
        yield Finding("files", "ok", "BATCHMILL_BLOB_URL can be written")


def _database(settings: Settings) -> Iterator[Finding]:
    is_sqlite = settings.database.startswith("sqlite")
    warning = sqlite_warning() if is_sqlite else None
    if warning is not None:
        yield Finding("SQLite", "note", warning)
    if is_sqlite and settings.database_url is None and not (settings.state_dir / "batchmill.db").is_file():
        yield Finding("database", "ok", "SQLite in the state directory, made at first use")
        return
    try:
        current = migrations.is_current(Database(settings.database, pool_size=1))
    except BatchmillError as error:
        yield Finding("database", "wrong", f"{error.message} Check DATABASE_URL and that the server runs.")
        return
    if current:
        yield Finding("database", "ok", "reachable, schema up to date")
    else:
        yield Finding("database", "wrong", "the schema is not this version's: run `batchmill db upgrade`")


def _redis(settings: Settings) -> Iterator[Finding]:
    if settings.redis_url is None:
        try:
            yield Finding("Redis", "ok", f"embedded: {find_redis_server()}")
        except ConfigurationError as error:
            yield Finding("Redis", "wrong", error.message)
        return
    try:
        with Redis.from_url(settings.broker, socket_timeout=3, socket_connect_timeout=3) as client:
            warning = eviction_warning(client.info("memory"))
    except RedisError as error:
        yield Finding("Redis", "wrong", f"no answer ({type(error).__name__}): check REDIS_URL and that it runs")
        return
    yield Finding("Redis", "ok", "reachable") if warning is None else Finding("Redis", "note", warning)


def _model(settings: Settings) -> Iterator[Finding]:
    if settings.model != NOOP and importlib.util.find_spec("torch") is None:
        yield Finding("model", "wrong", "torch is missing: pip install 'batchmill[worker]'")
        return
    if is_hub_id(settings.model_path) and not is_cached(settings.model):
        yield Finding("model", "note", f"{settings.model} is no folder here: its first use downloads it from the hub")
        return
    try:
        find_model(settings)
    except ConfigurationError as error:
        yield Finding("model", "wrong", error.message)
    else:
        yield Finding("model", "ok", settings.model_name)
