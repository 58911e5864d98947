"""Moments at which a process can be made to die, to fail or to stand still.

`POINT=ACTION` acts at the first time the point is reached, `POINT=ACTION@3` at the third; once in a process. Actions:

- `kill9`: the process is gone, as at a power cut.
- `raise`: an error nobody expects, as a bug would raise.
- `lost`: the database's answer never came. At `after_...` what was asked for is done, and nobody knows.
- `sleep:SECONDS`: this thread stands still for so long.
- `hold:PATH`: the thread makes the file PATH and stands still until somebody removes it.

The process says on its standard error when a point is reached at which it acts, and when it has left it.
"""

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from models.errors import DatabaseUnavailable
from tests.faults.patching import wrap

Action = Callable[[], None]
Hit = Callable[[], AbstractContextManager[None]]


class FailpointError(Exception):
    """Raised at a failpoint; the product knows nothing of it."""


def install(spec: str) -> None:
    """Arm `POINT=ACTION[@N]`. Raises ValueError for what there is none of."""
    point, _, rest = spec.partition("=")
    action, _, number = rest.partition("@")
    if point not in FAILPOINTS:
        raise ValueError(f"no failpoint {point}; there are {', '.join(FAILPOINTS)}")
    act = _action(point, action)
    nth, hits = int(number or 1), itertools.count(1)

    @contextmanager
    def hit() -> Iterator[None]:
        if next(hits) != nth:  # atomic: threads may come here together
            yield
            return
        _say(f"failpoint {point} reached")
        try:
            act()
            yield
        finally:
            _say(f"failpoint {point} left")

    FAILPOINTS[point](hit)


def _action(point: str, action: str) -> Action:
    name, _, argument = action.partition(":")

    def fail() -> None:
        raise FailpointError(point)

    def lose() -> None:
        raise DatabaseUnavailable(f"the database does not answer: failpoint {point}")

    actions: dict[str, Action] = {
        "kill9": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "raise": fail,
        "lost": lose,
        "sleep": lambda: time.sleep(float(argument)),
        "hold": lambda: _hold(Path(argument)),
    }
    if name not in actions:
        raise ValueError(f"no action {name}; there are {', '.join(actions)}")
    return actions[name]


def _say(text: str) -> None:
    os.write(2, f"{text}\n".encode())  # at once, whatever becomes of the process


def _hold(path: Path) -> None:
    path.touch()
    while path.exists():
        time.sleep(0.01)


def _before(owner: Any, name: str, hit: Hit) -> None:  # noqa: ANN401 (a class)
    def make(inner: Callable[..., Any]) -> Callable[..., Any]:
        def outer(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            with hit():
                return inner(*args, **kwargs)

        return outer

    wrap(owner, name, make)


def _after(owner: Any, name: str, hit: Hit, *, if_any: bool = False) -> None:  # noqa: ANN401 (a class)
    """With `if_any` only calls count that returned something."""

    def make(inner: Callable[..., Any]) -> Callable[..., Any]:
        def outer(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            result = inner(*args, **kwargs)
            if result or not if_any:
                with hit():
                    return result
            return result

        return outer

    wrap(owner, name, make)


def _after_claim(hit: Hit) -> None:
    """The claim is committed, the worker does not know it yet."""
    from models.claims import Claims

    _after(Claims, "claim", hit, if_any=True)


def _in_step(hit: Hit) -> None:
    """Rows are being decoded, by the no-op engine."""
    from worker.noop_engine import NoopEngine

    _before(NoopEngine, "step", hit)


def _before_commit(hit: Hit) -> None:
    """Rows are decoded, nothing is written."""
    from models.claims import Claims

    _before(Claims, "commit", hit)


def _after_commit(hit: Hit) -> None:
    """Results are written, the worker does not know it yet."""
    from models.claims import Claims

    _after(Claims, "commit", hit)


def _before_ack(hit: Hit) -> None:
    """Rows are claimed, Celery has not acknowledged their message."""
    from worker.deliveries import Delivery

    _before(Delivery, "accepted", hit)


def _mid_upload(hit: Hit) -> None:
    """Some of a file's bytes are written. The first time is at the start, which tries whether the folder takes any."""
    from models import blobs

    _after(blobs._FolderWriter, "write", hit)


def _before_file_row(hit: Hit) -> None:
    """A file's bytes are in their place, the row is not there."""
    from models.file_store import FileStore

    _before(FileStore, "create", hit)


def _mid_ingest(hit: Hit) -> None:
    """A chunk of a batch's lines is committed as rows, the reader does not know it yet."""
    from models.batch_store import BatchStore

    _after(BatchStore, "append", hit)


def _after_submit(hit: Hit) -> None:
    """Jobs are committed, the client has no answer."""
    from models.store import Store

    _after(Store, "submit_group", hit)


FAILPOINTS: dict[str, Callable[[Hit], None]] = {
    "after_claim": _after_claim,
    "in_step": _in_step,
    "before_commit": _before_commit,
    "after_commit": _after_commit,
    "before_ack": _before_ack,
    "mid_upload": _mid_upload,
    "before_file_row": _before_file_row,
    "mid_ingest": _mid_ingest,
    "after_submit": _after_submit,
}
