"""Rows claimed and prepared, waiting to be decoded: the queue between the feeder and the engine thread."""

import sys
import threading
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
_Entry = tuple[int, StagedRow]  # with how many had left when it came
PATIENCE = 4  # how many engines' worth of other rows may begin before a row, be they longer or more urgent
OUTLOOK_SHARE = 8  # an eighth of an engine's worth more is held: work that just fills two engines shows its end at once


class Staging:
    """A queue whose producer can wait for room and whose consumer can wait for rows. Counts requests, not jobs.

    Meant to hold one engine's worth behind the live rows, and as many as there are slots whose turn has not come: until
    then others may still go before a row.

    The more urgent leave first. Equally urgent ones should leave in order of arrival while the queue is full, and those
    that will decode longest first once it is not: then nothing more waits outside, and the end of the work should be
    many short rows and not one long one with empty slots beside it. (Longest first from the start would fill the engine
    with rows that all end late, before which none of the later ones begins.) A row that has seen many others leave goes
    before all of these, so that no stream of urgent or long ones keeps it for ever.

    There are no turns of owners here: what is staged is an engine's worth or two, and came in their turn.
    """

    def __init__(self, num_slots: int) -> None:
        self._num_slots, self._num_unfilled = num_slots, 0
        self._rows: list[_Entry] = []
        self._num_left = 0
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def room(self) -> int:
        """How many it is meant to hold."""
        return self._num_slots + self._num_slots // OUTLOOK_SHARE + self._num_unfilled

    @property
    def is_full(self) -> bool:
        """Whether more may wait outside."""
        return len(self._rows) >= self.room

    def note_unfilled(self, num_slots: int) -> None:
        """Make room for slots of the engine that are free and cannot be filled yet."""
        if num_slots != self._num_unfilled:
            with self._changed:
                self._num_unfilled = num_slots
                self._changed.notify_all()

    def put(self, prepared: list[Prepared]) -> None:
        """Add rows."""
        with self._changed:
            self._rows.extend((self._num_left, StagedRow(*entry)) for entry in prepared)
            self._changed.notify_all()

    def take(self, count: int, *, longest_first: bool) -> list[StagedRow]:
        """Remove up to `count` rows: those that are to begin next, in that order."""
        with self._changed:
            order = sorted(self._rows, key=self._longest_first if longest_first else self._urgent_first)
            taken, self._rows = order[:count], order[count:]
            self._num_left += len(taken)
            self._changed.notify_all()
        return [staged for _, staged in taken]

    def _longest_first(self, entry: _Entry) -> tuple[bool, int, int, int]:
        num_left_before, staged = entry
        limit = staged.row.job.body.get("max_tokens")
        longest = -sys.maxsize if limit is None else -limit
        return self._is_patient(entry), -staged.row.job.priority, longest, num_left_before

    def _urgent_first(self, entry: _Entry) -> tuple[bool, int, int]:
        num_left_before, staged = entry
        return self._is_patient(entry), -staged.row.job.priority, num_left_before

    def _is_patient(self, entry: _Entry) -> bool:
        """Whether it has not yet seen so many others leave that it goes before them."""
        return self._num_left - entry[0] < PATIENCE * self._num_slots

    def remove(self, job_ids: set[UUID]) -> None:
        """Take out the rows of these jobs, wherever they stand."""
        with self._changed:
            self._rows = [entry for entry in self._rows if entry[1].row.job.id not in job_ids]
            self._changed.notify_all()

    def job_ids(self) -> set[UUID]:
        """The jobs that something is staged of."""
        with self._changed:
            return {staged.row.job.id for _, staged in self._rows}

    def wait_for_rows(self, timeout_seconds: float) -> None:
        """Return when there is a row, or after the time."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._rows), timeout_seconds)

    def wait_for_room(self, timeout_seconds: float) -> int:
        """Return how many more rows it is meant to hold, after waiting for at least one place."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._rows) < self.room, timeout_seconds)
            return self.room - len(self._rows)
