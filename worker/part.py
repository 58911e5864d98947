"""A thread of the worker. None may die unseen: a worker without its writer would hold its rows for ever."""

import logging
import threading
from abc import abstractmethod
from collections.abc import Callable

log = logging.getLogger(__name__)


class Part(threading.Thread):
    """Works until told to stop. An error it does not handle is a bug and ends the process."""

    def __init__(self, name: str, *, on_crash: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._on_crash = on_crash
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Return from work() soon."""
        self._stopping.set()

    def run(self) -> None:
        """Work, and say so when that goes wrong."""
        try:
            self.work()
        except Exception:
            log.exception("%s failed", self.name, extra={"action": "part_failed"})
            self._on_crash()

    @abstractmethod
    def work(self) -> None:
        """What the thread does."""
