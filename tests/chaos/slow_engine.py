"""The no-op engine, but it takes its time: a step decodes one token of each row. Answers stay a function of the prompt.

A file can make it hang, as a kernel on a GPU may. The environment says which, and how long a step takes.
"""

import os
import threading
import time
from collections import deque
from pathlib import Path

from worker import noop_engine
from worker.engine.types import Output, Request

STEP_SECONDS = "CHAOS_STEP_SECONDS"
HANG_FILE = "CHAOS_HANG_FILE"


class SlowEngine(noop_engine.NoopEngine):
    """One step a token."""

    def __init__(self, *, rows: int | None = None) -> None:
        super().__init__(rows=rows)
        self._left: dict[str, int] = {}
        self._step_seconds = float(os.environ[STEP_SECONDS])
        self._hang_file = Path(os.environ[HANG_FILE])

    def add(self, sequence: Request) -> None:
        """Queue it for as many steps as it has tokens to decode."""
        super().add(sequence)
        self._left[sequence.id] = sequence.params.max_tokens or 1

    def step(self) -> list[Output]:
        """Decode a token of each row."""
        self._hang()
        time.sleep(self._step_seconds)
        for request in self._waiting:
            self._left[request.id] -= 1
        running = deque(request for request in self._waiting if self._left[request.id] > 0)
        self._waiting = deque(request for request in self._waiting if self._left[request.id] <= 0)
        outputs = super().step()
        for output in outputs:
            del self._left[output.request_id]
        self._waiting = running
        return outputs

    def cancel(self, request_id: str) -> bool:
        """Drop a request."""
        self._left.pop(request_id, None)
        return super().cancel(request_id)

    def _hang(self) -> None:
        """Once, so that the next process of this place decodes again."""
        if self._hang_file.exists():
            self._hang_file.unlink()
            threading.Event().wait()


def install() -> None:
    """Take the no-op engine's place in this process."""
    noop_engine.NoopEngine = SlowEngine  # type: ignore[misc]
