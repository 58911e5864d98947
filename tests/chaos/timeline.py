"""What happened when, in seconds since the run began: faults, and how many jobs stood in which state."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Mark:
    """A fault, from its beginning to its end."""

    what: str
    began: float
    ended: float


@dataclass
class Timeline:
    """Safe to use from every thread."""

    began: float = field(default_factory=time.monotonic)
    marks: list[Mark] = field(default_factory=list)
    samples: list[tuple[float, Mapping[str, int]]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def now(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    def mark(self, what: str, began: float) -> None:
        """Note a fault that ends now."""
        with self._lock:
            self.marks.append(Mark(what, began, self.now()))

    def sample(self, counts: Mapping[str, int]) -> None:
        """Note how many jobs are in which state now."""
        with self._lock:
            self.samples.append((self.now(), dict(counts)))
