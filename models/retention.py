"""Deleting what is old, in steps: each one short transaction over few rows, found by an index.

Ids are UUIDv7, so the rows of a time lie side by side in the primary keys, and what is old is walked there in order: no
index is kept for it. Ids that Celery's clients chose (UUIDv4) have no time in them; nearly all of them sort after every
id of ours, and that end is walked too. Whether a row is old enough is always judged by its own times and the database's
clock. Only what is final is deleted, and nothing leaves a final status: so nothing needs to be locked while it is
looked for, and two who do this at once merely find less.

A batch goes as a whole: from one moment on nobody reads its rows, then they are deleted. Its row stays a while, as does
a single job's without request and result, so that who asks is told that they were there (410), and later nothing.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Column, ColumnElement, Connection, and_, select

from models import aged_batches, aged_inputs, aged_workers, files, idempotency
from models.blobs import Blobs
from models.columns import from_now, is_one_of
from models.database import Database
from models.erasing import erase_jobs, erase_rows_of_batch, erase_wide_rows
from models.file_store import FileStore
from models.ids import first_id_of
from models.settings import Settings
from models.status import FINAL
from models.tables import jobs, payloads

DAY_SECONDS = 86_400.0
ROWS = {"postgresql": 1000, "sqlite": 200}  # a transaction; on SQLite nobody else writes meanwhile
BODIES = 100  # requests in memory at a time, of up to a megabyte each
FILES, KEYS = 100, 5000

Erase = Callable[[Connection, Sequence[UUID]], int]


@dataclass(frozen=True, slots=True)
class Keep:
    """For how many seconds things are kept after their end; None: for ever.

    `inputs`: prompts of final jobs, and input files after their upload. `results`: jobs and batches with all that
    belongs to them. `traces`: that there was a result, after it was deleted.
    """

    inputs: float | None = None
    results: float | None = None
    traces: float = 30 * DAY_SECONDS

    @classmethod
    def of(cls, settings: Settings) -> "Keep":
        """As the settings say."""
        inputs, results = settings.keep_inputs_days, settings.keep_results_days
        return cls(
            inputs=None if inputs is None else inputs * DAY_SECONDS,
            results=None if results is None else results * DAY_SECONDS,
            traces=settings.keep_traces_days * DAY_SECONDS,
        )


class Step(NamedTuple):
    """What one transaction did: how many of which things are gone. 0: it looked at rows that stay."""

    what: str
    number: int


class Retention:
    """Deletes by age. Any number of processes may do it at once."""

    def __init__(self, database: Database, blobs: Blobs, keep: Keep) -> None:
        self._database, self._blobs, self._keep = database, blobs, keep
        self._rows = ROWS[database.dialect]

    def steps(self) -> Iterator[Step]:
        """All that is over now, step by step: the caller pauses between them, or stops. Raises as the store does, and
        BlobsUnavailable; a later round goes on."""
        yield from self._files()
        yield from self._repeated("idempotency keys", KEYS, idempotency.forget)
        yield from self._batches()
        if self._keep.results is not None:
            yield from self._jobs("job results", payloads.c.job_id, self._keep.results, erase_wide_rows)
            yield from self._jobs("jobs", jobs.c.id, self._keep.results + self._keep.traces, erase_jobs)
        yield Step("workers", self._database.write(aged_workers.forget))

    def input_steps(self) -> Iterator[Step]:
        """Take the prompts out of the jobs that are old enough. It looks at every job whose result is kept longer than
        its input: once a day is often enough."""
        if self._keep.inputs is None:
            return
        for ids in self._windows(payloads.c.job_id, self._keep.inputs, BODIES, payloads.c.input_expired.is_(None)):
            due = self._due(ids, _is_final_for(self._keep.inputs))
            yield Step("job inputs", self._write(due, aged_inputs.erase))

    def due(self) -> Counter[str]:
        """Count what `steps` and `input_steps` would delete now, but for small things; deletes nothing."""
        found: Counter[str] = Counter()
        keep = self._keep
        with self._database.read() as connection:
            found["files"] = files.count_due(connection, keep.inputs)
            found["batches"], found["batch rows"] = aged_batches.count_due(connection, keep.results)
        if keep.results is not None:
            found["job results"] = self._count(payloads.c.job_id, keep.results, jobs.c.batch_id.is_(None))
            found["jobs"] = self._count(jobs.c.id, keep.results + keep.traces, jobs.c.batch_id.is_(None))
        if keep.inputs is not None:
            found["job inputs"] = self._count(payloads.c.job_id, keep.inputs)
        return +found

    def _count(self, column: Column[UUID], keep_seconds: float, *these: ColumnElement[bool]) -> int:
        windows = self._windows(column, keep_seconds, self._rows)
        return sum(len(self._due(ids, and_(_is_final_for(keep_seconds), *these))) for ids in windows)

    def _files(self) -> Iterator[Step]:
        """The bytes before the row: a crash between the two leaves a row that the next round finds."""
        keep = self._keep.inputs
        if keep is not None:
            yield from self._repeated("", FILES, lambda c, limit: files.expire_old(c, keep, limit))
        store, number = FileStore(self._database), FILES
        while number == FILES:
            expired = store.expire(FILES)
            for file in expired:
                if file.batch_id is None:
                    self._blobs.delete(file.id)
            store.forget([file.id for file in expired])
            number = len(expired)
            yield Step("files", number)

    def _batches(self) -> Iterator[Step]:
        keep = self._keep.results
        if keep is not None:
            yield from self._repeated("batches", FILES, lambda c, limit: aged_batches.expire_old(c, keep, limit))
        with self._database.read() as connection:
            going = aged_batches.going(connection)
        for batch_id in going:
            yield from self._rows_of(batch_id)
        yield from self._repeated(
            "traces of batches", FILES, lambda c, limit: aged_batches.forget(c, self._keep.traces, limit)
        )

    def _rows_of(self, batch_id: UUID) -> Iterator[Step]:
        def erase(connection: Connection, limit: int) -> int:
            return erase_rows_of_batch(connection, batch_id, limit, skip_locked=True)

        yield from self._repeated("batch rows", self._rows, erase)
        self._database.write(lambda connection: aged_batches.note_gone(connection, batch_id))

    def _jobs(self, what: str, column: Column[UUID], keep_seconds: float, erase: Erase) -> Iterator[Step]:
        """Single jobs, by the rows that are there to be deleted."""
        is_due = _is_final_for(keep_seconds) & jobs.c.batch_id.is_(None)
        for ids in self._windows(column, keep_seconds, self._rows):
            yield Step(what, self._write(self._due(ids, is_due), erase))

    def _windows(
        self, column: Column[UUID], keep_seconds: float, size: int, *these: ColumnElement[bool]
    ) -> Iterator[list[UUID]]:
        """Ids that may be old enough, in their order, some at a time; what stays is not looked at twice."""
        now = time.time()  # a clock that is wrong makes a row wait, or be looked at in vain
        ranges = ((UUID(int=0), column < first_id_of(now - keep_seconds)), (first_id_of(now + DAY_SECONDS), None))
        for after, until in ranges:
            last: UUID | None = after
            while last is not None:
                wanted = [*these, column > last, *([] if until is None else [until])]
                with self._database.read() as connection:
                    query = select(column).where(*wanted).order_by(column).limit(size)
                    ids = list(connection.scalars(query))
                if ids:
                    yield ids
                last = ids[-1] if len(ids) == size else None

    def _due(self, ids: Sequence[UUID], is_due: ColumnElement[bool]) -> list[UUID]:
        with self._database.read() as connection:
            return list(connection.scalars(select(jobs.c.id).where(is_one_of(connection, jobs.c.id, ids), is_due)))

    def _write(self, ids: Sequence[UUID], erase: Erase) -> int:
        """Erase, of these, the jobs that nobody else has in hand."""
        if not ids:
            return 0

        def work(connection: Connection) -> int:
            rows = select(jobs.c.id).where(is_one_of(connection, jobs.c.id, ids)).order_by(jobs.c.id)
            held = connection.scalars(rows.with_for_update(skip_locked=True)).all()
            return erase(connection, held) if held else 0

        return self._database.write(work)

    def _repeated(self, what: str, limit: int, work: Callable[[Connection, int], int]) -> Iterator[Step]:
        number = limit
        while number == limit:
            number = self._database.write(lambda connection: work(connection, limit))
            if what:
                yield Step(what, number)


def _is_final_for(seconds: float) -> ColumnElement[bool]:
    return jobs.c.status.in_(sorted(FINAL)) & (jobs.c.finished_at <= from_now(-seconds))
