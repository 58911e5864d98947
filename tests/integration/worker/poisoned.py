"""A worker whose engine dies of some prompts, or of all: `python -m tests.integration.worker.poisoned worker`.

DEAD_DEVICE: rows, or everything, the canary too. Each claim that got rows is noted as a line of the file CLAIMS: the
highest suspicion among them and how many they are.
"""

import os
import signal
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


def poison() -> None:
    """Make this process's engine die as a segmentation fault in a kernel would have it, or fail as a CUDA error."""

    def make_step(inner: Any) -> Any:  # noqa: ANN401
        def step(engine: NoopEngine) -> Any:  # noqa: ANN401
            if any(map(is_deadly, engine._waiting)):
                os.kill(os.getpid(), signal.SIGKILL)
            if any(request.prompt == RAISING for request in engine._waiting):
                raise RuntimeError("device-side assert triggered")
            return inner(engine)

        return step

    def make_claim(inner: Any) -> Any:  # noqa: ANN401
        def claim(*args: Any, **kwargs: Any) -> list[ClaimedJob]:  # noqa: ANN401
            claimed: list[ClaimedJob] = inner(*args, **kwargs)
            if claimed:
                with Path(os.environ["CLAIMS"]).open("a") as file:
                    file.write(f"{max(job.suspicion for job in claimed)} {len(claimed)}\n")
            return claimed

        return claim

    wrap(NoopEngine, "step", make_step)
    wrap(Claims, "claim", make_claim)


if __name__ == "__main__":
    poison()
    from cli.main import main

    main()
