"""How fast old rows are deleted, and what a worker notices of it: claim latency without and beside a purge.

Run: python -m benchmarks.retention [--rows 200000] [--json FILE]
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from uuid import UUID

from sqlalchemy import insert, text

from api.housekeeping import PAUSE_SECONDS
from benchmarks.services import postgresql_url
from benchmarks.store import BODY, CHOICE, MODEL, sqlite_url
from models import migrations
from models.blobs import Blobs
from models.claims import Claims
from models.columns import from_now
from models.database import Database
from models.ids import uuid7
from models.packing import dump_json
from models.records import NewJob, Outcome, WorkerRecord
from models.retention import DAY_SECONDS, Keep, Retention
from models.rows import completion_values
from models.status import Status
from models.store import Store
from models.tables import completions, jobs, payloads

GROUP = 16  # jobs a claim
QUIET_SECONDS = 10.0
CHUNK = 2000


def fill(database: Database, number: int, days: float) -> None:
    """Store completed jobs that ended so long ago."""
    then = from_now(-days * DAY_SECONDS)
    for start in range(0, number, CHUNK):
        ids = [
            UUID(int=uuid7().int - (int(days * DAY_SECONDS * 1000) << 80)) for _ in range(min(CHUNK, number - start))
        ]
        fixed = {"tenant": "default", "endpoint": "/v1/completions", "model": MODEL, "status": Status.COMPLETED.value}
        zeros = {"attempt": 1, "priority": 4, "suspicion": 0, "solo_crashes": 0, "cancel_requested": False, "seq": 1}
        with database.transaction() as connection:
            rows = insert(jobs).values(created_at=then, started_at=then, finished_at=then)
            connection.execute(rows, [{"id": id} | fixed | zeros for id in ids])
            connection.execute(insert(payloads), [{"job_id": id, "body": dump_json(BODY)} for id in ids])
            values = insert(completions).values(created_at=then)
            connection.execute(values, [completion_values(id, CHOICE) for id in ids])


def claim_seconds(database: Database, is_over: Callable[[], bool]) -> list[float]:
    """The time of each claim of a worker that submits, claims and commits one group after another."""
    store, claims, seconds = Store(database), Claims(database), []
    worker = WorkerRecord(uuid7(), f"bench/{uuid7().hex}", "bench", 1, MODEL, rows=GROUP)
    claims.register(worker, lease_seconds=3600)
    while not is_over():
        new = [NewJob(uuid7(), MODEL, "/v1/completions", BODY) for _ in range(GROUP)]
        store.submit(new)
        began = time.perf_counter()
        held = claims.claim(worker.id, [job.id for job in new])
        seconds.append(time.perf_counter() - began)
        claims.commit(worker.id, [Outcome(job.id, job.attempt, Status.COMPLETED, (CHOICE,)) for job in held])
    return seconds


def purge(database: Database, folder: Path, pause_seconds: float) -> dict[str, float]:
    """Delete what is old. Rows a second, and the longest step in milliseconds."""
    longest, number, began = 0.0, 0, time.perf_counter()
    steps = Retention(database, Blobs(str(folder / "files")), Keep(results=30 * DAY_SECONDS)).steps()
    while True:
        step_began = time.perf_counter()
        step = next(steps, None)
        if step is None:
            break
        if step.number:
            longest = max(longest, time.perf_counter() - step_began)
            number += step.number
            time.sleep(pause_seconds)
    return {
        "rows_per_second": number / (time.perf_counter() - began),
        "longest_step_ms": longest * 1000,
        "rows": number,
    }


def measured(url: str, folder: Path, number: int) -> dict[str, Any]:
    """All figures of one database."""
    database = Database(url)
    migrations.upgrade(database)
    fill(database, number, 40)
    if database.dialect == "postgresql":
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
    ends = time.monotonic() + QUIET_SECONDS
    quiet = claim_seconds(database, lambda: time.monotonic() > ends)
    result: dict[str, Any] = {}
    purging = threading.Thread(target=lambda: result.update(purge(database, folder, PAUSE_SECONDS)))
    purging.start()
    beside = claim_seconds(database, lambda: not purging.is_alive())
    fill(database, number // 4, 40)
    alone = purge(database, folder, 0.0)
    database.dispose()
    return {
        "claim_ms_quiet": spread(quiet),
        "claim_ms_beside_purge": spread(beside),
        "purge_beside_load": rounded(result),
        "purge_alone": rounded(alone),
    }


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, 99th percentile and worst of some times, in milliseconds."""
    return rounded(
        {"p50": median(seconds) * 1000, "p99": quantiles(seconds, n=100)[98] * 1000, "max": max(seconds) * 1000}
        | {"claims": len(seconds)}
    )


def rounded(values: dict[str, float]) -> dict[str, float]:
    """To be read."""
    return {name: round(value, 1) for name, value in values.items()}


def main() -> None:
    """Measure both databases and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batchmill-bench-") as folder:
        found = {}
        for name, place in (("postgresql", postgresql_url), ("sqlite", sqlite_url)):
            own = Path(folder) / name
            own.mkdir()
            with place(own) as url:
                found[name] = measured(url, own, arguments.rows)
            print(name, json.dumps(found[name], indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
