"""Child processes that never outlive their parent, and a worker that is started again when it dies."""

import ctypes
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from models.errors import ConfigurationError
from models.logs import READY, UNHEALTHY
from models.settings import Settings

log = logging.getLogger(__name__)

PARENT_VARIABLE = "BATCHMILL_PARENT_PID"  # set for workers that must end with the process that started them
EXIT_CONFIGURATION = 78
EXIT_UNHEALTHY = 71  # also of a worker that hung or whose engine failed; such a one is started again
MAX_QUICK_DEATHS = 8  # in a row without a finished row in between: more than a worker takes to find out its own fault
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_WATCH_SECONDS = 0.5
_LOG_TAIL_BYTES = 65536
_READY = re.compile(rf'{READY}([^"\n]+)["\n]')  # a line of its own, or a string in a line of JSON
_UNHEALTHY = re.compile(rf'{UNHEALTHY}([^"\n]+)["\n]')


class WorkerUnhealthy(ConfigurationError):
    """The worker's device crashes it, whatever the prompt. Starting it again helps no sooner than in ten minutes."""


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent dies (Linux; elsewhere nothing happens)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def watch_parent() -> None:
    """Drain and stop when the process that started us is gone. Works where die_with_parent does not, too."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(_WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def worker_environment(settings: Settings) -> dict[str, str]:
    """What hands settings of the command line on to a worker that ends with this process."""
    return {
        "DATABASE_URL": settings.database,
        "REDIS_URL": settings.broker,
        "BATCHMILL_STATE_DIR": str(settings.state_dir.resolve()),
        "BATCHMILL_MODEL": settings.model,
        "BATCHMILL_DEVICE": settings.device,
        "BATCHMILL_DTYPE": settings.dtype,
        "BATCHMILL_KV_DTYPE": settings.kv_dtype,
        "BATCHMILL_ROWS": str(settings.rows),
        "BATCHMILL_GPU_MEMORY_FRACTION": str(settings.gpu_memory_fraction),
        "BATCHMILL_TENSOR_PARALLEL": str(settings.tensor_parallel),
        "BATCHMILL_REPRODUCIBLE": str(settings.reproducible),
        "BATCHMILL_GRACE_SECONDS": str(settings.grace_seconds),
        "HF_HUB_OFFLINE": "1",  # a model of the hub is here by now: every start loads the one that was checked
        PARENT_VARIABLE: str(os.getpid()),
    }


class WorkerProcess:
    """`batchmill worker` as a child: its log in a file, started again when it dies."""

    def __init__(self, settings: Settings, log_path: Path, *, on_ready: Callable[[str], None]) -> None:
        """`on_ready` is called by `look_after` with the line in which the worker says what it runs, once a start."""
        self._log_path, self._on_ready = log_path, on_ready
        self._began = 0  # where this start's part of the log begins
        self._is_ready = False  # its line was found there
        self._environment = os.environ | worker_environment(settings)
        self._grace_seconds = settings.grace_seconds
        self._deaths = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, in a session of its own so that ctrl-C reaches us alone."""
        with self._log_path.open("ab") as file:
            self._began, self._is_ready = file.tell(), False
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cli.main", "worker"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def look_after(self, *, progressed: bool) -> None:
        """Pass on what it said; start it again if it died. Raises ConfigurationError when that cannot help, or
        WorkerUnhealthy when it cannot help yet."""
        self._look_for_ready()
        if self._process is None or self._process.poll() is None:
            if progressed:
                self._deaths = 0
            return
        code = self._process.returncode
        self._deaths += 1
        if code == EXIT_CONFIGURATION:
            raise ConfigurationError(self._last_words())
        if code == EXIT_UNHEALTHY and (why := self._find(_UNHEALTHY)):
            raise WorkerUnhealthy(f"the worker is unhealthy: {why}")
        if self._deaths >= MAX_QUICK_DEATHS:
            raise ConfigurationError(
                f"the worker died {self._deaths} times without finishing a row; {self._log_path} says why"
            )
        log.warning("the worker ended with status %d, starting it again", code, extra={"action": "worker_died"})
        self.start()

    def stop(self) -> None:
        """Ask it to drain; kill it if it takes longer than its grace time."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(self._grace_seconds + 15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _look_for_ready(self) -> None:
        if not self._is_ready and (line := self._find(_READY)):
            self._is_ready = True
            self._on_ready(line)

    def _find(self, pattern: re.Pattern[str]) -> str | None:
        """What the worker said on such a line since it was started."""
        with self._log_path.open("rb") as file:
            file.seek(self._began)
            found = pattern.search(file.read().decode(errors="replace"))
        return None if found is None else found[1]

    def _last_words(self) -> str:
        """The sentence with which a worker refused to start."""
        with self._log_path.open("rb") as file:
            file.seek(max(0, self._log_path.stat().st_size - _LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        prefix = "batchmill: "
        said = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
        return said[-1] if said else f"the worker refused to start; {self._log_path} says why"
