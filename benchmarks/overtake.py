"""Overtaking: how long a job waits that comes when a million rows of another owner are queued, with an engine that does
nothing. An urgent job of the same owner, and one of another owner, as urgent as the million.

    python -m benchmarks.overtake [--jobs N] [--rounds N] [--json FILE]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from uuid import UUID

from sqlalchemy import text

from api.broker import Broker
from benchmarks.queue import running, wait_until
from benchmarks.services import postgresql_url
from cli.embedded import embedded_redis
from models import migrations
from models.database import Database
from models.fair import Room
from models.ids import uuid7
from models.messages import NUM_LISTS
from models.records import NewJob
from models.requests import DEFAULT_PRIORITY
from models.status import Status
from models.store import Store

MODEL = "noop"
WARM_UP_JOBS = 20_000  # finished before the first measurement, so that the windows have found their size
MAX_SECONDS = {"urgent": 2.0, "other owner": 5.0}
_MILLION = text("""
    WITH new AS (SELECT gen_random_uuid() AS id, number FROM generate_series(1, :num_jobs) AS number),
    rows AS (
        INSERT INTO jobs (id, seq, tenant, endpoint, model, priority, status, created_at, attempt, suspicion,
                          solo_crashes, cancel_requested)
        SELECT id, number, 'big', '/v1/completions', :model, :priority, 'queued', now(), 0, 0, 0, false FROM new
    )
    INSERT INTO payloads (job_id, body) SELECT id, '{"prompt": "a prompt", "max_tokens": 1, "seed": 1}' FROM new
""")
_TIMES = text("""
    SELECT extract(epoch FROM started_at - created_at), extract(epoch FROM finished_at - created_at)
    FROM jobs WHERE id = :id
""")


def fill(database: Database, num_jobs: int) -> None:
    """Store the rows of the owner who is waited behind, in a few large transactions."""
    slab = min(num_jobs, 100_000)
    for _ in range(num_jobs // slab):
        with database.transaction() as connection:
            parameters = {"num_jobs": slab, "model": MODEL, "priority": DEFAULT_PRIORITY}
            connection.execute(_MILLION, parameters)


def waited(database: Database, store: Store, broker: Broker, *, tenant: str, priority: int) -> tuple[float, float]:
    """Submit a job; seconds until it was begun, and until its result was stored."""
    job = NewJob(uuid7(), MODEL, "/v1/completions", {"prompt": "a", "seed": 1}, tenant=tenant, priority=priority)
    store.submit([job])
    broker.announce()
    wait_until(lambda: store.statuses([job.id])[job.id] is Status.COMPLETED)
    return _times(database, job.id)


def _times(database: Database, job_id: UUID) -> tuple[float, float]:
    with database.read() as connection:
        begun, finished = connection.execute(_TIMES, {"id": job_id}).one()
    return float(begun), float(finished)


def look_seconds(store: Store) -> float:
    """How long it takes to find what is to be announced next, where there is room for one message."""
    rooms = [Room(1)] * NUM_LISTS
    began = time.perf_counter()
    taken = store.take_for_lists(MODEL, rooms)
    took = time.perf_counter() - began
    store.unpublish([hint.id for hints in taken for hint in hints])
    return took


def measure(num_jobs: int, rounds: int, folder: Path) -> dict[str, float]:
    """Every figure of one run."""
    with (
        postgresql_url(folder / "postgresql") as database_url,
        embedded_redis(folder / "redis", keep=False) as redis_url,
    ):
        database = Database(database_url, statement_timeout_seconds=300)
        migrations.upgrade(database)
        fill(database, num_jobs)
        store = Store(database)
        broker = Broker(redis_url, store)
        broker.start()
        environment = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "BATCHMILL_MODEL": MODEL,
            "BATCHMILL_STATE_DIR": str(folder / "state"),
        }
        figures = {"look_ms": 1000 * statistics.median(look_seconds(store) for _ in range(5))}
        command = [sys.executable, "-m", "cli.main", "worker", "--loglevel", "warning"]
        with running(command, os.environ | environment, folder / "worker.log"):
            wait_until(lambda: _num_finished(database) >= min(WARM_UP_JOBS, num_jobs // 2))
            for name, tenant, priority in (("urgent", "big", 9), ("other owner", "small", DEFAULT_PRIORITY)):
                times = [waited(database, store, broker, tenant=tenant, priority=priority) for _ in range(rounds)]
                figures[f"{name}: begun, median s"] = statistics.median(begun for begun, _ in times)
                figures[f"{name}: result, median s"] = statistics.median(finished for _, finished in times)
                figures[f"{name}: result, worst s"] = max(finished for _, finished in times)
            figures["jobs finished meanwhile"] = _num_finished(database)
        figures["jobs still queued"] = sum(store.queue_depth().values())
        broker.stop()
        database.dispose()
    return figures


def _num_finished(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(text("SELECT count(*) FROM completions")).scalar_one())


def main() -> None:
    """Measure, print a table, write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batchmill-bench-", ignore_cleanup_errors=True) as folder:
        figures = measure(options.jobs, options.rounds, Path(folder))
    for name, figure in figures.items():
        limits = [limit for case, limit in MAX_SECONDS.items() if name == f"{case}: result, worst s"]
        print(f"{name:32} {figure:12,.3f}" + "".join(f"   target <= {limit}" for limit in limits))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
