"""Rows claimed and prepared, waiting for a slot: the queue between the feeder and the engine thread."""

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from worker.deliveries import Row


@dataclass(frozen=True, slots=True)
class StagedRow:
    """A row's request to the engine, or one of several, with its sequence as the engine's prepare() made it."""

    row: Row
    request_id: str
    sequence: Any


Prepared = tuple[Row, str, Any]  # a row, the id of its request, its sequence


class Staging:
    """A queue whose producer can wait for room and whose consumer can wait for rows. Counts requests, not jobs."""

    def __init__(self) -> None:
        self._rows: deque[StagedRow] = deque()
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, prepared: list[Prepared]) -> None:
        """Add rows in the order given."""
        with self._changed:
            self._rows.extend(StagedRow(*entry) for entry in prepared)
            self._changed.notify_all()

    def take(self, count: int) -> list[StagedRow]:
        """Remove up to `count` rows from the front."""
        with self._changed:
            taken = [self._rows.popleft() for _ in range(min(count, len(self._rows)))]
            self._changed.notify_all()
        return taken

    def remove(self, job_ids: set[UUID]) -> None:
        """Take out the rows of these jobs, wherever they stand."""
        with self._changed:
            self._rows = deque(staged for staged in self._rows if staged.row.job.id not in job_ids)
            self._changed.notify_all()

    def job_ids(self) -> set[UUID]:
        """The jobs that something is staged of."""
        with self._changed:
            return {staged.row.job.id for staged in self._rows}

    def wait_for_rows(self, timeout_seconds: float) -> None:
        """Return when there is a row, or after the time."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._rows), timeout_seconds)

    def wait_for_room(self, limit: int, timeout_seconds: float) -> int:
        """Return how many rows fit below `limit`, after waiting for at least one place."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._rows) < limit, timeout_seconds)
            return limit - len(self._rows)
