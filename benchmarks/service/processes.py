"""The processes of a run: databases, our service, the peers; each with its log in the run's folder."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 600.0
CELERY_BATCHES = ("celery-batches", "celery[redis]")


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process for the length of a block."""
    with log.open("ab") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
    """Look every few milliseconds. Raises TimeoutError."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            raise TimeoutError("the benchmark did not get there; the logs say why")
        time.sleep(0.01)


def ours(*arguments: str) -> list[str]:
    """A `batchmill` command."""
    return [sys.executable, "-m", "cli.main", *arguments]


def celery(app: str, python: str = sys.executable) -> list[str]:
    """A worker of a peer: one process, as there is one model."""
    return [python, "-m", "celery", "-A", app, "worker", "--pool", "solo", "-l", "warning", "--without-mingle"]


def older_celery(folder: Path) -> str:
    """A Python with celery-batches and the Celery it needs, and behind them everything that this one has.

    Raises CalledProcessError where pip cannot get them.
    """
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *CELERY_BATCHES], check=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    theirs = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "behind.pth").write_text(theirs + "\n")
    return str(python)
