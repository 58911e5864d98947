"""How fast the store is on this machine: insert, claim and commit on PostgreSQL and SQLite, durable as in production.

Run: python -m benchmarks.store [--jobs 50000] [--json FILE]
"""

import argparse
import json
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from benchmarks.services import postgresql_url
from models import migrations
from models.batch_store import BatchStore
from models.claims import Claims
from models.database import Database
from models.ids import uuid7
from models.records import ClaimedJob, CompletionRecord, NewBatch, NewJob, Outcome, WorkerRecord
from models.status import Status
from models.store import Store

LEASE_SECONDS = 3600.0
MODEL = "bench"
BODY = {"prompt": "x" * 200, "max_tokens": 16, "seed": 1}
CHOICE = CompletionRecord(0, "y" * 80, tuple(range(16)), "stop", 50, 16, logprobs=(-1.5,) * 16, seed=1)

_Item = TypeVar("_Item")


@contextmanager
def sqlite_url(folder: Path) -> Iterator[str]:
    """A SQLite file of this run's own."""
    yield f"sqlite:///{folder / 'bench.db'}"


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def chunks(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    """Cut items into runs of `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def new_jobs(number: int) -> list[NewJob]:
    """Jobs that belong to no batch."""
    return [NewJob(uuid7(), MODEL, "/v1/completions", BODY) for _ in range(number)]


def outcomes(claimed: Sequence[ClaimedJob]) -> list[Outcome]:
    """Each claimed job completed with one choice of 16 tokens with logprobs."""
    return [Outcome(job.id, job.attempt, Status.COMPLETED, (CHOICE,)) for job in claimed]


def one_by_one(store: Store, number: int) -> None:
    """Store jobs as single requests do, a transaction each."""
    for job in new_jobs(number):
        store.submit([job])


def append_batch(batches: BatchStore, number: int) -> list[UUID]:
    """Store a batch of jobs as intake does, in chunks of 1,000 lines."""
    batch = NewBatch(uuid7(), "/v1/completions", MODEL)
    batches.create(batch)
    rows = [
        NewJob(uuid7(), MODEL, "/v1/completions", BODY, custom_id=f"request-{line}", batch_id=batch.id, line=line)
        for line in range(number)
    ]
    for chunk in chunks(rows, 1000):
        batches.append(batch.id, chunk, num_lines=(chunk[-1].line or 0) + 1, num_bytes=0)
    batches.end_intake(batch.id)
    return [row.id for row in rows]


def alternate(claims: Claims, worker: UUID, ids: Sequence[UUID], size: int) -> None:
    """Claim and commit in turn, in one thread."""
    for chunk in chunks(ids, size):
        result = claims.commit(worker, outcomes(claims.claim(worker, chunk)))
        assert len(result.applied) == len(chunk)


def side_by_side(claims: Claims, worker: UUID, ids: Sequence[UUID], size: int) -> None:
    """Claim in one thread and commit in another, as a worker does."""
    claimed: queue.Queue[list[ClaimedJob]] = queue.Queue(4)

    def commit() -> None:
        while jobs := claimed.get():
            assert len(claims.commit(worker, outcomes(jobs)).applied) == len(jobs)

    committing = threading.Thread(target=commit)
    committing.start()
    for chunk in chunks(ids, size):
        claimed.put(claims.claim(worker, chunk))
    claimed.put([])
    committing.join()


def measure(url: str, number: int) -> dict[str, float]:
    """Jobs per second of each operation."""
    database = Database(url)
    migrations.upgrade(database)
    store, claims, worker = Store(database), Claims(database), uuid7()
    claims.register(WorkerRecord(worker, "bench", "bench", 1, MODEL), lease_seconds=LEASE_SECONDS)
    rates: dict[str, float] = {}
    jobs = new_jobs(number)
    rates["submit, one call"] = number / timed(lambda: store.submit(jobs))
    ids = [job.id for job in jobs]
    rates["submit, one by one"] = 500 / timed(lambda: one_by_one(store, 500))
    rates["append to a batch"] = number / timed(lambda: ids.extend(append_batch(BatchStore(database), number)))
    rates["take_unpublished(256)"] = number / timed(
        lambda: [store.take_unpublished(256, model=MODEL) for _ in range(number // 256)]
    )
    half, quarter = number // 2, number // 4
    rates["claim + commit, 64"] = half / timed(lambda: alternate(claims, worker, ids[:half], 64))
    rates["claim + commit, 256"] = half / timed(lambda: alternate(claims, worker, ids[half:number], 256))
    batch_ids = ids[number:]
    rates["batch: claim + commit, 64"] = half / timed(lambda: alternate(claims, worker, batch_ids[:half], 64))
    rest = batch_ids[half:]
    rates["batch: claim | commit, 64"] = quarter / timed(lambda: side_by_side(claims, worker, rest[:quarter], 64))
    rates["batch: claim | commit, 256"] = quarter / timed(lambda: side_by_side(claims, worker, rest[quarter:], 256))
    database.dispose()
    return rates


def main() -> None:
    """Measure both databases and print a table; with --json write it too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rates: dict[str, dict[str, float]] = {}
    for name, server in (("postgresql", postgresql_url), ("sqlite", sqlite_url)):
        with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as url:
            rates[name] = measure(url, arguments.jobs)
    print(f"{'jobs a second':<28}{'PostgreSQL':>12}{'SQLite':>12}")
    for operation, rate in rates["postgresql"].items():
        print(f"{operation:<28}{rate:>12,.0f}{rates['sqlite'][operation]:>12,.0f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rates, indent=2))


if __name__ == "__main__":
    main()
