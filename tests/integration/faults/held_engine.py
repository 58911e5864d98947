"""An engine whose rows run until the test lets them end."""

import threading

from worker.engine.types import Output
from worker.noop_engine import NoopEngine


class HeldEngine(NoopEngine):
    """Rows gather, and end together once `go_on` is set."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows=rows)
        self.go_on = threading.Event()

    def step(self) -> list[Output]:
        """As the no-op engine's, or nothing."""
        return super().step() if self.go_on.is_set() else []
