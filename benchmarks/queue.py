"""The queue alone: how fast jobs are taken in and how fast one worker claims and commits them, with an engine that
does nothing; beside it plain Celery's own no-op tasks, on the same machine in the same run.

    python -m benchmarks.queue [--jobs N] [--json FILE]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from celery import Celery
from redis import Redis
from sqlalchemy import text

from benchmarks.services import postgresql_url
from cli.embedded import embedded_redis
from models import migrations
from models.database import Database
from models.ids import uuid7
from models.records import NewJob
from models.settings import load_settings
from models.store import Store

SLAB = 10_000  # jobs a transaction on the way in
PLAIN_JOBS = 6_000
PLAIN_POOLS = {
    "solo": ["-P", "solo"],
    "threads": ["-P", "threads", "-c", "4"],
    "prefork -c2": ["-P", "prefork", "-c", "2"],
}
DEADLINE_SECONDS = 240.0
TARGETS = {"consumed_per_second": 10_000, "times_plain_celery": 6.0, "enqueued_per_second": 15_000}


def enqueue(store: Store, app: Celery, num_jobs: int) -> float:
    """Submit and announce jobs; jobs per second."""
    from worker.hints import HintRepair, redis_client, relay

    HintRepair(store, redis_client(app.conf.broker_url), model="noop").check(
        num_waiting=0
    )  # as the first worker of all did
    began = time.perf_counter()
    for start in range(0, num_jobs, SLAB):
        store.submit(
            [
                NewJob(uuid7(), "noop", "/v1/completions", {"prompt": f"prompt {number}", "max_tokens": 1, "seed": 1})
                for number in range(start, min(start + SLAB, num_jobs))
            ]
        )
        relay(app, store)
    return num_jobs / (time.perf_counter() - began)


def consume(database: Database, environment: dict[str, str], num_jobs: int, log: Path) -> float:
    """Let one worker empty the queue; jobs per second between the first claim and the last commit."""
    with running([sys.executable, "-m", "cli.main", "worker", "--loglevel", "warning"], environment, log):
        wait_until(lambda: _count(database, "completed") == num_jobs)
    with database.read() as connection:
        seconds = connection.execute(
            text("SELECT extract(epoch FROM max(finished_at) - min(started_at)) FROM jobs")
        ).scalar_one()
    return num_jobs / float(seconds)


def plain_celery(redis_url: str, arguments: list[str], environment: dict[str, str], log: Path) -> float:
    """Let Celery empty a queue of no-op tasks; tasks per second from the first taken to the last acknowledged."""
    from benchmarks.plain_celery import app, nothing

    app.conf.broker_url = redis_url
    with Redis.from_url(redis_url) as redis:
        redis.flushall()
        with app.producer_pool.acquire(block=True) as producer, producer.batch(max_size=1000):
            for number in range(PLAIN_JOBS):
                nothing.apply_async((f"prompt {number}",), producer=producer)
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "benchmarks.plain_celery",
            "worker",
            *arguments,
            "-l",
            "warning",
        ]
        with running([*command, "--without-mingle", "--without-gossip"], environment, log):
            wait_until(lambda: redis.llen("celery") < PLAIN_JOBS)
            began = time.perf_counter()
            wait_until(lambda: redis.llen("celery") == 0 and redis.hlen("unacked") == 0)
            return PLAIN_JOBS / (time.perf_counter() - began)


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    """A process for the length of a block."""
    with log.open("ab") as file:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=file, stderr=file)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def wait_until(condition: Callable[[], bool]) -> None:
    """Look every few milliseconds; give up after the deadline."""
    ends = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > ends:
            raise TimeoutError("the benchmark did not get there")
        time.sleep(0.01)


def _count(database: Database, status: str) -> int:
    with database.read() as connection:
        # A look at the queue's partial index; counting the finished rows would cost the server more than the worker.
        left = connection.execute(text("SELECT EXISTS (SELECT 1 FROM jobs WHERE status = 'queued')")).scalar_one()
        if left:
            return 0
        query = text("SELECT count(*) FROM jobs WHERE status = :status")
        return int(connection.execute(query, {"status": status}).scalar_one())


def measure(num_jobs: int, folder: Path) -> dict[str, float]:
    """Every figure of one run."""
    figures: dict[str, float] = {}
    with (
        postgresql_url(folder / "postgresql") as database_url,
        embedded_redis(folder / "redis", keep=False) as redis_url,
    ):
        environment = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "BATCHMILL_MODEL": "noop",
            "BATCHMILL_STATE_DIR": str(folder / "state"),
        }
        os.environ.update(environment)
        from worker.celery_app import create_app

        database = Database(database_url)
        migrations.upgrade(database)
        figures["enqueued_per_second"] = enqueue(Store(database), create_app(load_settings()), num_jobs)
        figures["consumed_per_second"] = consume(database, environment, num_jobs, folder / "worker.log")
        for name, arguments in PLAIN_POOLS.items():
            figures[f"plain_celery_{name}"] = plain_celery(redis_url, arguments, environment, folder / "plain.log")
        database.dispose()
    best = max(rate for name, rate in figures.items() if name.startswith("plain_celery"))
    figures["times_plain_celery"] = figures["consumed_per_second"] / best
    return figures


def main() -> None:
    """Measure, print a table, write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batchmill-bench-", ignore_cleanup_errors=True) as folder:
        figures = measure(options.jobs, Path(folder))
    for name, figure in figures.items():
        target = f"   target >= {TARGETS[name]:,}" if name in TARGETS else ""
        print(f"{name:28} {figure:12,.1f}{target}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
