"""`batchmill db purge`: what the service's housekeeper does, once and to its end; for cron where no service runs."""

import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import orjson

from cli.console import write_out
from cli.keys import lifetime
from models.blobs import Blobs
from models.database import Database
from models.retention import Keep, Retention
from models.settings import Settings

SAY_SECONDS = 2.0  # between two lines of progress


def purge(settings: Settings, *, older_than: str | None, inputs_older_than: str | None, dry_run: bool) -> None:
    """Delete what is over and print how much of what, as JSON. Ages given win over the settings; others still hold."""
    keep = Keep.of(settings)
    if older_than is not None:
        keep = replace(keep, results=lifetime(older_than, option="--older-than").total_seconds())
    if inputs_older_than is not None:
        keep = replace(keep, inputs=lifetime(inputs_older_than, option="--inputs-older-than").total_seconds())
    database = Database(settings.database, pool_size=2)
    try:
        retention = Retention(database, Blobs(settings.blobs), keep)
        gone = retention.due() if dry_run else _clear(retention)
    finally:
        database.dispose()
    write_out(orjson.dumps({"would_delete" if dry_run else "deleted": dict(sorted(gone.items()))}).decode())


def _clear(retention: Retention) -> Counter[str]:
    gone: Counter[str] = Counter()
    say_at = time.monotonic() + SAY_SECONDS
    for steps in (retention.steps(), retention.input_steps()):
        for step in steps:
            gone[step.what] += step.number
            if time.monotonic() >= say_at:
                sys.stderr.write(f"deleted so far: {_listed(+gone)}\n")
                say_at = time.monotonic() + SAY_SECONDS
    return +gone


def _listed(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {what}" for what, number in sorted(numbers.items())) or "nothing"
