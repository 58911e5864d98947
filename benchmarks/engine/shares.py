"""Where the engine's time goes, by its own modules."""

import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from benchmarks.engine.ours import Ours
from benchmarks.engine.work import Work
from worker import engine as engine_package

_ENGINE = Path(engine_package.__file__).parent
_INTERVAL_SECONDS = 0.002


def shares_by_module(ours: Ours, work: Sequence[Work]) -> dict[str, float]:
    """Each engine module's share of a run, largest first; what it calls outside the engine counts as its own.

    Looks at the stack 500 times a second, and on a CPU torch's calls return when their work is done. A tracing profiler
    would burden the modules with many small calls.
    """
    main, done, seen = threading.get_ident(), threading.Event(), Counter[str]()

    def watch() -> None:
        while not done.wait(_INTERVAL_SECONDS):
            seen[_innermost(sys._current_frames().get(main))] += 1

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        ours(work)
    finally:
        done.set()
        watcher.join()
    return {name: count / seen.total() for name, count in seen.most_common()}


def _innermost(frame: FrameType | None) -> str:
    """The engine module that a stack is in, though torch may be what it called last."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_ENGINE):
            return path.relative_to(_ENGINE).parts[0].removesuffix(".py")
        frame = frame.f_back
    return "outside"
