"""This worker's place in the workers table: its slot, its incarnation, and how long it may believe in its lease."""

import fcntl
import os
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from models.claims import Claims
from models.ids import uuid7
from models.records import WorkerRecord
from worker.crashes import CrashLog

MAX_SLOTS = 4096
GIVE_UP_SHARE = 0.9  # of the lease: the rest is for the rows' last step to end in


@dataclass
class Slot:
    """A numbered seat in a state directory, held by a file lock.

    Whoever gets the lock knows that the seat's former holder is dead: the system drops the lock with the process.
    That makes "my predecessor crashed" a fact, where an expired lease is only a suspicion.
    """

    name: str
    lock: IO[str]
    crashes: CrashLog

    @classmethod
    def take(cls, state_dir: Path) -> "Slot":
        """Take the first free seat."""
        folder = state_dir / "slots"
        folder.mkdir(parents=True, exist_ok=True)
        home = _identity(folder / "id")
        for number in range(MAX_SLOTS):
            lock = (folder / f"{number}.lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            crashes = CrashLog(folder / f"{number}.json")
            return cls(f"{socket.gethostname()}/{home}/{number}", lock, crashes)
        raise RuntimeError(f"{MAX_SLOTS} workers already run from {state_dir}")

    def leave(self) -> None:
        """Free the seat, as the system does when the process ends, but not as one that crashed."""
        self.crashes.end()
        self.lock.close()


def _identity(path: Path) -> str:
    """A random name of the state directory, made once: two of them on one host are different places."""
    try:
        with path.open("x") as file:
            file.write(uuid.uuid4().hex[:8])
    except FileExistsError:
        pass
    return path.read_text() or "new"


@dataclass
class Lease:
    """The incarnation under which this process claims and commits. A lost lease means a new incarnation."""

    claims: Claims
    record: WorkerRecord
    lease_seconds: float
    clock: Callable[[], float] = time.monotonic
    _renewed: float = field(init=False, default=0.0)
    _is_given_up: bool = field(init=False, default=False)

    @property
    def worker_id(self) -> uuid.UUID:
        """The id that fences every write."""
        return self.record.id

    def begin(self) -> None:
        """Enter the workers table."""
        asked = self.clock()
        self.claims.register(self.record, lease_seconds=self.lease_seconds)
        self._renewed, self._is_given_up = asked, False

    def renew(self) -> str | None:
        """Heartbeat; returns this worker's state. None: the lease is gone or given up, its rows belong to others."""
        if self._is_given_up:
            return None
        asked = self.clock()
        state = self.claims.heartbeat(self.worker_id, lease_seconds=self.lease_seconds)
        if state is not None:
            self._renewed = asked
        return state

    @property
    def has_run_out(self) -> bool:
        """Whether, by our own clock, the lease may soon end: the database last answered to a question of long ago."""
        return self._is_given_up or self.clock() - self._renewed > GIVE_UP_SHARE * self.lease_seconds

    def give_up(self) -> None:
        """Believe in this incarnation no more, even if the database should answer in the last moment."""
        self._is_given_up = True

    def begin_again(self) -> None:
        """Become a new incarnation: what the old one still writes is fenced off."""
        self.record = replace(self.record, id=uuid7(), pid=os.getpid())
        self.begin()

    def end(self) -> None:
        """Leave the workers table; what the database still counts as this incarnation's is given back."""
        self.claims.deregister(self.worker_id)
