"""A worker whose engine dies of some prompts, or of all: `python -m tests.integration.worker.poisoned worker`.

DEAD_DEVICE: rows, or everything, the canary too. Each claim that got rows is noted as a line of the file CLAIMS: the
highest suspicion among them and how many they are. LOAD_SECONDS: how long the model takes to load.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

from models.claims import Claims
from models.records import ClaimedJob
from tests.faults.patching import wrap
from worker.engine.types import Request
from worker.noop_engine import NoopEngine

POISON = "poison"
RAISING = "poison that raises"


def is_deadly(request: Request) -> bool:
    """Whether the process dies of this request."""
    device = os.environ.get("DEAD_DEVICE")
    if device is not None:
        return device == "everything" or request.id != "canary"
    return request.prompt == POISON


def load_slowly(inner: Any) -> Any:  # noqa: ANN401
    """A model of some size."""

    def load(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        time.sleep(float(os.environ.get("LOAD_SECONDS", "0")))
        inner(*args, **kwargs)

    return load


def die(inner: Any) -> Any:  # noqa: ANN401
    """As a segmentation fault in a kernel would have it, or fail as a CUDA error."""

    def step(engine: NoopEngine) -> Any:  # noqa: ANN401
        if any(map(is_deadly, engine._waiting)):
            os.kill(os.getpid(), signal.SIGKILL)
        if any(request.prompt == RAISING for request in engine._waiting):
            raise RuntimeError("device-side assert triggered")
        return inner(engine)

    return step


def note(inner: Any) -> Any:  # noqa: ANN401
    """Note what is claimed."""

    def claim(*args: Any, **kwargs: Any) -> list[ClaimedJob]:  # noqa: ANN401
        claimed: list[ClaimedJob] = inner(*args, **kwargs)
        if claimed:
            with Path(os.environ["CLAIMS"]).open("a") as file:
                file.write(f"{max(job.suspicion for job in claimed)} {len(claimed)}\n")
        return claimed

    return claim


if __name__ == "__main__":
    wrap(NoopEngine, "__init__", load_slowly)
    wrap(NoopEngine, "step", die)
    wrap(Claims, "claim", note)
    from cli.main import main

    main()
