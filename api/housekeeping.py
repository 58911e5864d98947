"""A thread that clears away what is over: whatever retention deletes, and what killed uploads left behind."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator

from models.blobs import Blobs
from models.errors import BatchmillError
from models.retention import DAY_SECONDS, Retention, Step

log = logging.getLogger(__name__)

PERIOD_SECONDS = 600.0
PAUSE_SECONDS = 0.05  # after a step that deleted something: so most of the time the database is the others' alone
STOP_SECONDS = 5.0


class Housekeeper:
    """Several services may do this at once: each takes other rows."""

    def __init__(self, retention: Retention, blobs: Blobs) -> None:
        self._retention, self._blobs = retention, blobs
        self._inputs_after = 0.0  # monotonic time of the next look through all inputs
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeper", daemon=True)

    def start(self) -> None:
        """Begin, at once with a first round."""
        self._thread.start()

    def stop(self) -> None:
        """End after the step at hand; storage that does not answer is not waited for."""
        self._stopping.set()
        self._thread.join(STOP_SECONDS)

    def clear(self) -> Counter[str]:
        """One round. Returns how many of which things are gone. Raises what the database and the storage raise."""
        gone: Counter[str] = Counter({"abandoned uploads": self._blobs.remove_abandoned()})
        for step in self._steps():
            gone[step.what] += step.number
            if self._stopping.wait(PAUSE_SECONDS if step.number else 0.0):
                break
        return +gone

    def _steps(self) -> Iterator[Step]:
        yield from self._retention.steps()
        if time.monotonic() >= self._inputs_after:
            yield from self._retention.input_steps()
            self._inputs_after = time.monotonic() + DAY_SECONDS

    def _run(self) -> None:
        while True:
            try:
                gone = self.clear()
            except BatchmillError as error:  # the next round may find the database or the storage back
                log.warning("cannot clear away what is over: %s", error, extra={"action": "housekeeping_failed"})
            else:
                if gone:
                    text = ", ".join(f"{number} {what}" for what, number in sorted(gone.items()))
                    log.info("deleted %s", text, extra={"action": "cleared"})
            if self._stopping.wait(PERIOD_SECONDS):
                return
