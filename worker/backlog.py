"""Finished rows that wait for the database: in memory up to a limit, beyond it in a file."""

import logging
import threading
from collections import deque
from pathlib import Path

from models.records import CompletionRecord, Outcome
from worker.deliveries import FinishedRow
from worker.spill import Spill

log = logging.getLogger(__name__)

ROW_BYTES = 1024  # of memory, beside what a row's completions take
TOKEN_BYTES = 40  # an id and perhaps a logprob, as Python holds them
DETAIL_BYTES = 1000  # of a token, with some alternatives to it


class Backlog:
    """A queue for one writer, safe to fill from every thread. Rows leave in the order in which they came."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._in_memory: deque[FinishedRow] = deque()  # the older ones
        self._num_bytes = 0
        self._spill = Spill(folder)
        self._is_refused = False

    def __len__(self) -> int:
        return len(self._in_memory) + len(self._spill)

    @property
    def is_full(self) -> bool:
        """Whether memory holds as much as it should: then the rest goes to the file, and no new rows are wanted."""
        return self._num_bytes >= self._max_bytes or len(self._spill) > 0

    @property
    def num_spilled(self) -> int:
        """Rows in the file."""
        return len(self._spill)

    def put(self, finished: FinishedRow) -> None:
        """Add a row. A disk that does not take it is no reason to lose it: it stays in memory."""
        with self._changed:
            if not (self.is_full and self._spilled(finished)):
                self._in_memory.append(finished)
                self._num_bytes += memory_bytes(finished.outcome)
            self._changed.notify()

    def take(self, *, limit: int, max_bytes: int, timeout_seconds: float) -> list[FinishedRow]:
        """Remove the oldest rows, up to so many and about so many bytes, after waiting for at least one.

        Raises OSError when what was spilled cannot be read again.
        """
        group: list[FinishedRow] = []
        with self._changed:
            self._changed.wait_for(lambda: len(self), timeout_seconds)
            num_bytes = 0
            while len(self) and len(group) < limit and num_bytes < max_bytes:
                group.append(self._oldest())
                num_bytes += memory_bytes(group[-1].outcome)
        return group

    def close(self) -> None:
        """Forget what waits: its rows are given back."""
        with self._changed:
            self._in_memory.clear()
            self._num_bytes = 0
            self._spill.close()

    def _oldest(self) -> FinishedRow:
        if not self._in_memory:
            return self._spill.take()
        finished = self._in_memory.popleft()
        self._num_bytes -= memory_bytes(finished.outcome)
        return finished

    def _spilled(self, finished: FinishedRow) -> bool:
        try:
            self._spill.put(finished)
        except OSError as error:
            if not self._is_refused:  # once an outage
                log.warning("results stay in memory: %s", error.strerror, extra={"action": "spill_failed"})
            self._is_refused = True
            return False
        self._is_refused = False
        return True


def memory_bytes(outcome: Outcome) -> int:
    """About how much memory an outcome takes."""
    return ROW_BYTES + sum(map(_completion_bytes, outcome.completions))


def _completion_bytes(completion: CompletionRecord) -> int:
    num_tokens = len(completion.token_ids) + len(completion.prompt_token_ids or ())
    per_token = TOKEN_BYTES + (DETAIL_BYTES if completion.details else 0)
    return ROW_BYTES + len(completion.text) + per_token * num_tokens
