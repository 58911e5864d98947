"""`batchmill run`: a file of prompts in, result files out, everything in between started and stopped for the user."""

import fcntl
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import SecretStr
from redis import Redis
from rich.console import Console

from cli.children import WorkerProcess
from cli.db import open_upgraded
from cli.embedded import check_redis, embedded_redis
from cli.model import find_model
from cli.output import ResultFiles, default_errors_path
from cli.progress import RunProgress, done, summary
from cli.signals import interrupts
from cli.source import Source, fingerprint, open_source
from models.batch_store import BatchStore
from models.database import Database
from models.errors import BatchmillError, ConfigurationError, RequestError
from models.ids import uuid7
from models.messages import MARKER_KEY
from models.records import BatchRecord, NewBatch
from models.requests import ENDPOINTS
from models.settings import DEMO, Settings
from models.status import FINAL_BATCH
from models.store import Store

EXIT_COMPLETED, EXIT_FAILURE, EXIT_ROWS_FAILED = 0, 1, 3
EXIT_INTERRUPTED = 130  # as shells report ctrl-C
TICK_SECONDS = 0.25
GRACE_SECONDS = 3.0  # on ctrl-C; rows given back are decoded again to the same tokens, so waiting gains little
MIN_FREE_BYTES = 8 << 20
STATS_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line said, beside the settings."""

    input: str
    output: str
    errors: Path | None
    fresh: bool


def run_file(options: RunOptions, settings: Settings) -> int:
    """Run to the end; returns the exit status. Raises BatchmillError with one sentence for the user."""
    console = Console(stderr=True)
    logging.basicConfig(format="batchmill: %(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        with interrupts(), ExitStack() as stack:
            return _Run(options, settings, console, stack).execute()
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on where this one stopped")
        return EXIT_INTERRUPTED
    except OSError as error:
        raise ConfigurationError(f"cannot use {error.filename or settings.state_dir}: {error.strerror}") from error


class _Run:
    """One invocation. Its folder in the state directory is named by the fingerprint, so that the same prompts and
    model find their earlier rows, and other runs can go on beside it."""

    def __init__(self, options: RunOptions, settings: Settings, console: Console, stack: ExitStack) -> None:
        self._options, self._console, self._stack = options, console, stack
        model_folder = find_model(settings)
        _check_output(options)
        if settings.redis_url is not None:
            check_redis(settings.broker)
        runs = settings.state_dir / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        self._source: Source = open_source(options.input, spool_folder=runs / "stdin")
        self._fingerprint = fingerprint(self._source, settings, model_folder)
        self._folder = runs / self._fingerprint[:16]
        stack.enter_context(_locked(self._folder.with_suffix(".lock")))
        if options.fresh:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(exist_ok=True)
        self._settings = settings.model_copy(
            update={
                "state_dir": self._folder,
                "database_url": SecretStr(_database_url(settings, self._folder)),
                "grace_seconds": min(settings.grace_seconds, GRACE_SECONDS),
            }
        )
        self._intake_error: BatchmillError | OSError | None = None
        self._stopping = threading.Event()

    def execute(self) -> int:
        """Take in the file, decode, write the results, say what was done."""
        began = time.monotonic()
        database = open_upgraded(self._settings.database)
        self._stack.callback(database.dispose)
        store, batches = Store(database), BatchStore(database)
        first = self._find_or_create(batches)
        files = ResultFiles(
            batches,
            first.id,
            output=self._options.output,
            errors=self._options.errors or default_errors_path(self._options.input, self._options.output),
            wants_errors=self._options.errors is not None,
        )
        occupancy = None if first.status in FINAL_BATCH else self._generate(store, batches, first, files)
        files.advance()
        files.finish()
        batch = _read(batches, first)
        if not batch.num_total:
            self._console.print(f"{self._options.input} holds no prompts", highlight=False)
        self._console.print(summary(batch, first=first, seconds=time.monotonic() - began, occupancy=occupancy))
        return EXIT_COMPLETED if batch.num_completed == batch.num_total else EXIT_ROWS_FAILED

    def _find_or_create(self, batches: BatchStore) -> BatchRecord:
        found = None if self._options.fresh else batches.find(self._fingerprint)
        if found is not None:
            self._console.print(
                f"going on with an earlier run: {done(found)} of {found.num_total} rows done (--fresh starts over)",
                highlight=False,
            )
            return found
        batch = NewBatch(
            id=uuid7(), endpoint=ENDPOINTS[0], model=self._settings.model_name, fingerprint=self._fingerprint
        )
        batches.create(batch)
        return _read(batches, batch)

    def _generate(self, store: Store, batches: BatchStore, batch: BatchRecord, files: ResultFiles) -> float | None:
        """Start Redis and a worker, feed it, watch; returns the batch occupancy, if the worker could be asked."""
        if self._settings.redis_url is None:
            url = self._stack.enter_context(embedded_redis(self._folder / "redis", keep=False))
            _begin_with_empty_broker(store, url)
            self._settings = self._settings.model_copy(update={"redis_url": SecretStr(url)})
        worker = WorkerProcess(
            self._settings,
            self._folder / "worker.log",
            on_ready=lambda line: self._console.print(line, highlight=False, markup=False, soft_wrap=True),
        )
        self._stack.callback(worker.stop)
        worker.start()
        intake = threading.Thread(target=self._take_in, args=(batch,), name="intake", daemon=True)
        self._stack.callback(intake.join, GRACE_SECONDS)
        self._stack.callback(self._stopping.set)
        intake.start()
        with RunProgress(self._console) as progress:
            self._watch(batches, batch, files, worker, progress, intake)
        return self._occupancy()

    def _watch(
        self,
        batches: BatchStore,
        batch: BatchRecord,
        files: ResultFiles,
        worker: WorkerProcess,
        progress: RunProgress,
        intake: threading.Thread,
    ) -> None:
        before = batch
        while batch.status not in FINAL_BATCH:
            time.sleep(TICK_SECONDS)
            before, batch = batch, _read(batches, batch)
            progress.update(batch, intake_done=not intake.is_alive())
            worker.look_after(progressed=done(batch) > done(before))
            files.advance()
            if self._intake_error is not None:
                raise self._intake_error
            if shutil.disk_usage(self._folder).free < MIN_FREE_BYTES:
                raise ConfigurationError(
                    f"the disk of {self._folder} is full: free some space; the same command then goes on"
                )

    def _take_in(self, batch: BatchRecord) -> None:
        """Intake, on a thread and a connection of its own: decoding begins with the first chunk."""
        from worker.celery_app import create_app
        from worker.hints import relay
        from worker.intake import Reading, take_in

        database = Database(self._settings.database, pool_size=2)
        store, app = Store(database), create_app(self._settings)

        def announce(_: frozenset[str] = frozenset()) -> bool:
            try:
                relay(app, store, model=self._settings.model_name)
            except BatchmillError:
                logging.getLogger(__name__).debug("hints not published; the worker finds the rows")
            return not self._stopping.is_set()

        try:
            if batch.status == "validating":
                reading = Reading(partial(_resolve, self._settings), self._settings.max_line_bytes)
                with self._source.path.open("rb") as file:
                    take_in(BatchStore(database), batch, file, reading, on_chunk=announce)
            announce()
        except (BatchmillError, OSError) as error:
            self._intake_error = error
        finally:
            app.close()
            database.dispose()

    def _occupancy(self) -> float | None:
        """Live rows per step over slots, as Celery's `inspect stats` tells it."""
        from kombu.exceptions import KombuError

        from worker.celery_app import create_app

        try:
            with create_app(self._settings) as app:
                replies = app.control.inspect(timeout=STATS_SECONDS, limit=1).stats() or {}
        except (KombuError, OSError):  # Redis went while the run did not need it any more
            return None
        engines = [reply["pool"]["engine"] for reply in replies.values() if "engine" in reply.get("pool", {})]
        slots = sum(engine["steps"] * engine["rows"] for engine in engines)
        return sum(engine["row_steps"] for engine in engines) / slots if slots else None


def _begin_with_empty_broker(store: Store, url: str) -> None:
    """What an earlier invocation announced went with its Redis; say so once, before a keeper finds out by itself."""
    store.unpublish_queued()
    with Redis.from_url(url) as redis:
        redis.set(MARKER_KEY, "1")


def _resolve(settings: Settings, name: str | None) -> str:
    """This run's model, by whatever name of its a line gives, or none. Raises RequestError."""
    if name in (None, settings.model, settings.model_name) or (name == DEMO and settings.model == DEMO):
        return settings.model_name
    raise RequestError("model_not_found", "the line names another model than this run's", param="model")


def _read(batches: BatchStore, batch: BatchRecord | NewBatch) -> BatchRecord:
    found = batches.get(batch.id)
    if found is None:
        raise ConfigurationError("the run's rows are gone from the database; start over with --fresh")
    return found


def _database_url(settings: Settings, folder: Path) -> str:
    return settings.database if settings.database_url is not None else f"sqlite:///{folder.resolve()}/batchmill.db"


def _check_output(options: RunOptions) -> None:
    """Find out now, not after hours, that the result has nowhere to go. Raises ConfigurationError."""
    for path in (Path(options.output), options.errors):
        if path is None or str(path) == "-":
            continue
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise ConfigurationError(f"cannot write {path}: its folder does not exist or is not writable")
        if options.input != "-" and path.exists() and path.samefile(options.input):
            raise ConfigurationError(f"{path} is the input: give the results another name")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the run: two processes must not write the same results. The lock goes with the process."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError("this very run is going on in another process") from None
        yield
