"""A second try, in float32, for requests whose scores left the range of bfloat16 or float16. Knows no rows.

The model is loaded a second time when the first such request comes. One request at a time runs there, a token for
every step of the engine proper, which so goes on: its rows wait for the loading once, then for one row's step each.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from worker.engine.faults import is_allocation_failure
from worker.engine.finish import nonfinite_logits
from worker.engine.group import Group
from worker.engine.info import EngineInfo
from worker.engine.types import EngineError, Output

log = logging.getLogger(__name__)

# Useless tries in a row after which there are no more: the checkpoint is to blame, not the dtype.
MAX_USELESS = 3


class SmallEngine(Protocol):
    """What is needed of the engine that tries again."""

    info: EngineInfo

    def add(self, group: Group) -> None: ...  # noqa: D102
    def step(self) -> list[Output]: ...  # noqa: D102
    def cancel(self, request_id: str) -> bool: ...  # noqa: D102


class Float32Retry:
    """Requests that try again. `load` is None for an engine that is float32 already."""

    def __init__(self, load: Callable[[], SmallEngine] | None) -> None:
        self._load = load
        self._engine: SmallEngine | None = None
        self._groups: deque[Group] = deque()  # the first one is running if `_is_running`
        self._is_running = False
        self._num_useless = 0
        self.num_retries = self.num_helped = 0

    def take(self, group: Group) -> bool:
        """Queue a request that is where it began; False where there is no second try."""
        if self._load is None:
            return False
        self._groups.append(group)
        return True

    @property
    def request_ids(self) -> list[str]:
        """Requests that try again, or wait to."""
        return [group.request_id for group in self._groups]

    def cancel(self, request_id: str) -> None:
        """Drop a request, where it is here."""
        if request_id not in self.request_ids:
            return
        index = self.request_ids.index(request_id)
        if index == 0 and self._is_running and self._engine is not None:
            self._engine.cancel(request_id)
            self._is_running = False
        del self._groups[index]

    def step(self) -> list[Output]:
        """Go a token further. Gives what finished, for better or worse."""
        if not self._groups:
            return []
        engine = self._engine or self._try_load()
        if engine is None:
            return self._give_up()
        if not self._is_running:
            self._is_running = True
            self.num_retries += 1
            log.warning("a row's scores are no numbers: once more in float32", extra={"action": "float32_retry"})
            engine.add(self._groups[0])
        outputs = engine.step()
        if not outputs:
            return []
        self._groups.popleft()
        self._is_running = False
        finished = [replace(output, fingerprint=engine.info.fingerprint) for output in outputs]
        return finished + self._judge(outputs[0])

    def _judge(self, output: Output) -> list[Output]:
        if output.error is None:
            self.num_helped += 1
            self._num_useless = 0
            return []
        self._num_useless += 1
        return self._give_up() if self._num_useless >= MAX_USELESS else []

    def _try_load(self) -> SmallEngine | None:
        if self._load is None:
            return None
        try:
            self._engine = self._load()
        except (EngineError, RuntimeError, MemoryError) as error:
            if not isinstance(error, EngineError) and not is_allocation_failure(error):
                raise
            log.warning("no second try in float32: %s", error, extra={"action": "float32_retry_refused"})
        return self._engine

    def _give_up(self) -> list[Output]:
        """Try no more, free the second model, and fail what waits."""
        failed = [Output(group.request_id, error=nonfinite_logits()) for group in self._groups]
        self._groups.clear()
        self._load = self._engine = None
        return failed
