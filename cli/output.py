"""Result files: completed rows in input order to the output, the others to the errors file, while the run goes on.

Written from the jobs table alone, so a run that was killed writes the same files again from their first line.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import orjson

from api.rendering.bodies import error_line, output_line
from api.rendering.choices import UNFINISHED_CODES, error_entry, error_of
from models.batch_store import BatchStore
from models.records import JobRecord
from models.status import FINAL, Status

STDOUT = "-"
PAGE = 500  # rows read at a time; memory stays flat however many there are


class ResultFiles:
    """The two files of a run, under a temporary name until they are whole. `-` writes to stdout as rows come."""

    def __init__(self, batches: BatchStore, batch_id: UUID, *, output: str, errors: Path, wants_errors: bool) -> None:
        """Open the files. `wants_errors`: leave an errors file even when it is empty. Raises OSError."""
        self._batches, self._batch_id = batches, batch_id
        self._last_line = -1
        self._output_path = None if output == STDOUT else Path(output)
        self._errors_path, self._wants_errors = errors, wants_errors
        self._output: BinaryIO = (
            sys.stdout.buffer if self._output_path is None else _partial(self._output_path).open("wb")
        )
        self._errors: BinaryIO | None = None
        self.on_row: Callable[[JobRecord], None] = lambda job: None

    def advance(self) -> None:
        """Write every row that is final and has only final rows before it."""
        while True:
            jobs = self._batches.results(self._batch_id, after_line=self._last_line, limit=PAGE)
            for job in jobs:
                if job.status not in FINAL:
                    self._output.flush()
                    return
                self._write(job)
            if len(jobs) < PAGE:
                self._output.flush()
                return

    def _write(self, job: JobRecord) -> None:
        if job.status is Status.COMPLETED:
            self._output.write(orjson.dumps(output_line(job)) + b"\n")
        else:
            # Whoever reads these finds the reason in one place, also where the line has a response as OpenAI's have.
            line = error_line(job) | {"error": error_entry(UNFINISHED_CODES.get(job.status) or error_of(job))}
            self._open_errors().write(orjson.dumps(line) + b"\n")
        self._last_line = job.line if job.line is not None else self._last_line
        self.on_row(job)

    def _open_errors(self) -> BinaryIO:
        if self._errors is None:
            self._errors = _partial(self._errors_path).open("wb")
        return self._errors

    def finish(self) -> None:
        """Give the files their names: whole or not there, never half."""
        if self._wants_errors:
            self._open_errors()
        _settle(self._errors, self._errors_path)
        if self._output_path is not None:
            _settle(self._output, self._output_path)


def default_errors_path(input_name: str, output: str) -> Path:
    """OUTPUT.errors.jsonl beside the output; beside the work where the output is stdout."""
    if output != STDOUT:
        path = Path(output)
        return path.with_name(f"{path.stem}.errors.jsonl")
    return Path("batchmill.errors.jsonl" if input_name == STDOUT else f"{Path(input_name).stem}.errors.jsonl")


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def _settle(file: BinaryIO | None, path: Path) -> None:
    """Flush to disk and rename; without a file, remove what an earlier run left under the name."""
    if file is None:
        path.unlink(missing_ok=True)
        return
    file.flush()
    os.fsync(file.fileno())
    file.close()
    _partial(path).replace(path)
