"""A batch file becoming rows inside a worker: how long it takes, what memory, and what decoding loses meanwhile.

The file's lines name a model that nobody serves, so that reading them is all that they cost; beside it the worker
decodes rows of another batch.

    python -m benchmarks.intake [--lines N] [--model demo|noop] [--database postgresql|sqlite] [--json FILE]
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

import orjson
import psutil

from benchmarks.service.processes import running, wait_until
from benchmarks.services import postgresql_url
from cli.embedded import embedded_redis
from models import migrations
from models.batch_store import BatchStore
from models.blobs import Blobs
from models.database import Database
from models.file_store import FileStore
from models.ids import uuid7
from models.records import DEFAULT_TENANT, NewBatch, NewFile, NewJob
from models.store import Store

ENDPOINT = "/v1/completions"
NUM_BUSY = 20_000  # rows for the worker to decode: more than it can
BUSY_TOKENS = 64
WINDOW_SECONDS = 8.0
TICK_SECONDS = 0.02
TARGET_SECONDS = 10.0  # for 50,000 lines


class Scene:
    """A database with a worker on it."""

    def __init__(self, url: str, folder: Path, worker: psutil.Process) -> None:
        database = Database(url)
        self.batches, self.files, self.store = BatchStore(database), FileStore(database), Store(database)
        self.blobs = Blobs(str(folder / "state" / "files"))
        self.worker = worker

    def submit(self, num_lines: int) -> UUID:
        """Store a file and a batch of it."""
        file_id = uuid7()
        with self.blobs.writer(file_id) as writer:
            for number in range(num_lines):
                body = {"model": "unserved", "prompt": f"prompt {number} " + "x" * 200, "max_tokens": 16}
                line = {"custom_id": f"request-{number}", "method": "POST", "url": ENDPOINT, "body": body}
                writer.write(orjson.dumps(line) + b"\n")
        self.files.create(NewFile(file_id, DEFAULT_TENANT, "batch", "in.jsonl", num_lines))
        batch = NewBatch(uuid7(), ENDPOINT, input_file_id=file_id)
        self.batches.create(batch)
        return batch.id

    def keep_busy(self, model: str) -> UUID:
        """A batch for the worker to decode."""
        batch = NewBatch(uuid7(), ENDPOINT, model)
        self.batches.create(batch)
        body = {"prompt": "def ", "max_tokens": BUSY_TOKENS, "ignore_eos": True, "seed": 1}
        for start in range(1, NUM_BUSY, 1000):
            rows = [NewJob(uuid7(), model, ENDPOINT, body, line=line) for line in range(start, start + 1000)]
            self.batches.append(batch.id, rows, num_lines=start, num_bytes=0)
        return batch.id

    def tokens(self, batch_id: UUID) -> int:
        """Output tokens of a batch so far."""
        batch = self.batches.get(batch_id)
        assert batch is not None
        return batch.output_tokens

    def intake(self, num_lines: int) -> dict[str, float]:
        """Read a file in: seconds of each pass, and how far the worker's memory rose."""
        before = largest = self.worker.memory_info().rss
        batch_id = self.submit(num_lines)
        began = checked = time.perf_counter()
        while True:
            batch = self.batches.get(batch_id)
            assert batch is not None
            largest = max(largest, self.worker.memory_info().rss)
            if batch.num_requests is None:
                checked = time.perf_counter()
            if batch.input_read:
                break
            time.sleep(TICK_SECONDS)
        assert batch.num_total == num_lines
        ended = time.perf_counter()
        return {
            "check_seconds": checked - began,
            "insert_seconds": ended - checked,
            "seconds": ended - began,
            "memory_growth_mib": (largest - before) / (1 << 20),
        }


def rate(count: Callable[[], int], seconds: float) -> float:
    """How fast a count rises."""
    began, first = time.perf_counter(), count()
    time.sleep(seconds)
    return (count() - first) / (time.perf_counter() - began)


def measure(url: str, folder: Path, num_lines: int, model: str) -> dict[str, float]:
    """One worker: an intake while it has nothing else to do, then one while it decodes."""
    with ExitStack() as stack:
        migrations.upgrade(Database(url))
        environment = {
            "DATABASE_URL": url,
            "REDIS_URL": stack.enter_context(embedded_redis(folder / "redis", keep=False)),
            "BATCHMILL_STATE_DIR": str(folder / "state"),
            "BATCHMILL_MODEL": model,
            "BATCHMILL_MAX_BATCH_REQUESTS": str(num_lines),
            "BATCHMILL_MODEL_ALIASES": '{"alias": "unserved"}',
            "BATCHMILL_THREADS": "1",
        }
        command = [sys.executable, "-m", "cli.main", "worker", "--loglevel", "warning"]
        process = stack.enter_context(running(command, environment, folder / "worker.log"))
        scene = Scene(url, folder, psutil.Process(process.pid))
        wait_until(scene.store.workers)
        figures = scene.intake(num_lines)
        busy = scene.keep_busy(model)
        wait_until(lambda: scene.tokens(busy))
        alone = rate(lambda: scene.tokens(busy), WINDOW_SECONDS)
        began, first = time.perf_counter(), scene.tokens(busy)
        beside = scene.intake(num_lines)
        meanwhile = (scene.tokens(busy) - first) / (time.perf_counter() - began)
        return figures | {
            "beside_decoding_seconds": beside["seconds"],
            "tokens_per_second": (alone + rate(lambda: scene.tokens(busy), WINDOW_SECONDS)) / 2,
            "tokens_per_second_meanwhile": meanwhile,
        }


def main() -> None:
    """Measure and print; with --json write it too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=50_000)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--database", choices=("postgresql", "sqlite"), action="append")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {}
    for name in options.database or ("postgresql", "sqlite"):
        with tempfile.TemporaryDirectory(prefix="batchmill-bench-") as text, ExitStack() as stack:
            folder = Path(text)
            url = f"sqlite:///{folder / 'bench.db'}"
            if name == "postgresql":
                url = stack.enter_context(postgresql_url(folder / "postgresql"))
            results[name] = measure(url, folder, options.lines, options.model)
        print(f"{options.lines:,} lines on {name}; target for 50,000: {TARGET_SECONDS:.0f} s")
        for figure, value in results[name].items():
            print(f"  {figure:<30}{value:>12,.1f}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
