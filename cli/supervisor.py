"""`batchmill worker --devices`: a worker process a device, started again when it dies, stopped together.

The supervisor itself holds no model, no connection and no thread. A worker that it starts again is in the dead one's
seat (worker/lease.py), because each device has a state directory of its own: so crashes are confirmed, not guessed.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Protocol

from cli.children import EXIT_CONFIGURATION, worker_environment
from cli.devices import Device
from cli.model import has_model
from cli.signals import noted
from models import logs
from models.settings import Settings
from worker.loading import spare_threads

log = logging.getLogger(__name__)

EXIT_USAGE = 2
HOPELESS = (EXIT_CONFIGURATION, EXIT_USAGE)  # starting again unchanged does not help
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 1.0, 60.0
QUICK_SECONDS = 60.0  # who dies sooner after a start waits longer for the next one
OVERTIME_SECONDS = 60.0  # beyond its grace time, for a worker whose database is away; then it hangs and is killed
STOP = (signal.SIGTERM, signal.SIGINT)
COMMAND: tuple[str, ...] = ("-m", "cli.main", "worker")

Wait = Callable[[float | None], Collection[int]]  # for signals, up to so many seconds


class Process(Protocol):
    """What is needed of subprocess.Popen."""

    @property
    def pid(self) -> int: ...  # noqa: D102
    def poll(self) -> int | None: ...  # noqa: D102
    def send_signal(self, sig: int) -> None: ...  # noqa: D102


class DeviceWorker:
    """The worker of one device. It runs, or it is due at a time to be started again, or it is over."""

    def __init__(
        self, name: str, launch: Callable[[], Process], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name, self._launch, self._clock = name, launch, clock
        self._process: Process | None = None
        self._started_at = 0.0
        self._pause = FIRST_PAUSE_SECONDS
        self._is_told = False
        self.due_at: float | None = None
        self.exit_status = 0  # once it is over; of a signal as a shell has it

    @property
    def is_over(self) -> bool:
        """Whether it has ended and is not started again."""
        return self._process is None and self.due_at is None

    def start(self) -> None:
        """Start a process."""
        self.due_at, self._started_at = None, self._clock()
        self._process = self._launch()
        self._say(logging.INFO, "worker_started", f"started, process {self._process.pid}")

    def look(self) -> None:
        """See whether it ended, or start it again when that is due."""
        if self._process is not None:
            status = self._process.poll()
            if status is not None:
                self._process = None
                self._note_end(status)
        elif self.due_at is not None and self._clock() >= self.due_at:
            self.start()

    def stop(self) -> None:
        """Tell it to drain; told again it gives its rows back at once."""
        self._is_told, self.due_at = True, None
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, where it still runs."""
        if self._process is not None:
            self._say(logging.ERROR, "worker_hung", "does not stop and is killed")
            self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _note_end(self, status: int) -> None:
        ended = f"ended with {_describe(status)}"
        if self._is_told:
            # By the signal itself ends who is told before it can listen, and so has nothing in hand.
            self.exit_status = 0 if status == -signal.SIGTERM else _as_exit_status(status)
            self._say(logging.INFO, "worker_ended", ended)
        elif status in HOPELESS:
            self.exit_status = status
            self._say(logging.ERROR, "worker_given_up", f"{ended} and is not started again")
        else:
            if self._clock() - self._started_at >= QUICK_SECONDS:
                self._pause = FIRST_PAUSE_SECONDS
            self.due_at = self._clock() + self._pause
            self._say(logging.WARNING, "worker_died", f"{ended}, starting it again in {self._pause:.0f} s")
            self._pause = min(2 * self._pause, MAX_PAUSE_SECONDS)

    def _say(self, level: int, action: str, what: str) -> None:
        log.log(level, "worker on %s %s", self._name, what, extra={"action": action, "device": self._name})


class Supervisor:
    """Workers of several devices, looked after until all are over."""

    def __init__(
        self,
        workers: Sequence[DeviceWorker],
        wait: Wait,
        *,
        grace_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workers, self._wait, self._clock = workers, wait, clock
        self._patience_seconds = grace_seconds + OVERTIME_SECONDS
        self._kill_at: float | None = None

    def run(self) -> int:
        """Start all, and look after them until they are told to stop or none is worth starting. Gives 0 if all that
        ran to the end ended well, else the first status that was not."""
        for worker in self._workers:
            worker.start()
        while not all(worker.is_over for worker in self._workers):
            if any(number in STOP for number in self._wait(self._seconds_left())):
                self._stop()
            for worker in self._workers:
                worker.look()
            self._kill_late()
        return next((worker.exit_status for worker in self._workers if worker.exit_status), 0)

    def _seconds_left(self) -> float | None:
        """Until something is due; None: only a signal can change anything."""
        due = [worker.due_at for worker in self._workers if worker.due_at is not None]
        due += [] if self._kill_at is None else [self._kill_at]
        return max(min(due) - self._clock(), 0.0) if due else None

    def _stop(self) -> None:
        for worker in self._workers:
            worker.stop()
        if self._kill_at is None:
            self._kill_at = self._clock() + self._patience_seconds

    def _kill_late(self) -> None:
        if self._kill_at is not None and self._clock() >= self._kill_at:
            self._kill_at += self._patience_seconds  # a process that even this does not end sits in the kernel
            for worker in self._workers:
                worker.kill()


def supervise(settings: Settings, devices: Sequence[Device], *, loglevel: str) -> int:
    """Run a worker on each device until told to stop, then exit: with status 78 where starting again cannot help."""
    if not has_model(settings):
        return EXIT_CONFIGURATION
    logs.set_up(settings)
    workers = [
        DeviceWorker(device.name, partial(_launch, settings, device, len(devices), loglevel)) for device in devices
    ]
    with noted(*STOP, signal.SIGHUP, signal.SIGCHLD) as wait:
        return Supervisor(workers, wait, grace_seconds=settings.grace_seconds).run()


def environment_of(settings: Settings, device: Device, num_devices: int) -> dict[str, str]:
    """What makes a process one of so many workers: a device and a seat of its own, all else in common."""
    own = {
        "BATCHMILL_STATE_DIR": str(settings.state_dir.resolve() / "devices" / device.folder),
        "BATCHMILL_BLOB_URL": settings.blobs,
        "BATCHMILL_THREADS": str(settings.threads or max(spare_threads() // num_devices, 1)),
    }
    return worker_environment(settings) | own | device.environment()


def _launch(settings: Settings, device: Device, num_devices: int, loglevel: str) -> Process:
    """Start a worker in a session of its own, so that ctrl-C reaches the supervisor alone, which passes it on."""
    return subprocess.Popen(
        [sys.executable, *COMMAND, "--loglevel", loglevel],
        env=os.environ | environment_of(settings, device, num_devices),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def _describe(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"status {status}"
    known = {number.value: number.name for number in signal.Signals}
    return f"signal {known.get(-status, -status)}"


def _as_exit_status(status: int) -> int:
    return status if status >= 0 else 128 - status
