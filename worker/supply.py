"""The supply thread: keeps messages in Redis for as much as the workers will soon take, and for no more."""

import logging
import time
from collections.abc import Callable, Sequence

from celery import Celery
from redis import Redis

from models.errors import BatchmillError
from models.fair import WINDOW, rooms
from models.messages import MAX_CHUNK, MIN_CHUNK, NUM_LISTS
from models.store import Store
from worker.hints import announce, list_lengths
from worker.part import Part

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.2  # between looks at the lists; twice as long after each that found nothing to do, up to this:
REST_SECONDS = 1.0  # a look costs some milliseconds, which are the decoder's; what is submitted is announced by the api
RETRY_SECONDS = 1.5  # after one that failed
MIN_WINDOW, MAX_WINDOW = 4, 128  # messages a list


class Supply(Part):
    """Tops up the lists of one model. The window of each follows demand: it doubles when its list was taken empty while
    rows were left outside, and shrinks while half of it is never taken; so what comes later and may overtake waits
    behind as little as can be."""

    def __init__(
        self,
        app: Celery,
        store: Store,
        redis: Redis,
        *,
        model: str,
        num_rows: int,
        ageing_seconds: float,
        on_crash: Callable[[], None],
    ) -> None:
        super().__init__("supply", on_crash=on_crash)
        self._app, self._store, self._redis = app, store, redis
        self._model, self._ageing_seconds = model, ageing_seconds
        self._chunk = min(max(num_rows, MIN_CHUNK), MAX_CHUNK)  # no message should be more than an engine's worth
        self.windows = [WINDOW] * NUM_LISTS
        self._left_some = [False] * NUM_LISTS  # whether the last look filled the window, so that more may be outside

    def work(self) -> None:
        """Look, until stopped."""
        pause = LOOK_SECONDS
        while not self._stopping.wait(pause):
            began = time.monotonic()
            try:
                if self.top_up():
                    pause = max(LOOK_SECONDS - (time.monotonic() - began), 0.0)
                else:
                    pause = min(max(2 * pause, LOOK_SECONDS), REST_SECONDS)
            except BatchmillError as error:
                log.warning("%s", error, extra={"action": "supply_failed"})
                pause = RETRY_SECONDS

    def top_up(self) -> int:
        """Fill the windows; returns how many rows were announced. Raises BrokerUnavailable."""
        lengths = list_lengths(self._redis, self._model)
        self._follow(lengths)
        room = rooms(lengths, self.windows, chunk=self._chunk)
        taken = announce(self._app, self._store, self._model, room, self._ageing_seconds)
        self._left_some = [num >= place.num_messages * place.chunk for num, place in zip(taken, room, strict=True)]
        return sum(taken)

    def _follow(self, lengths: Sequence[int]) -> None:
        for index, length in enumerate(lengths):
            window = self.windows[index]
            if length == 0 and self._left_some[index]:
                self.windows[index] = min(2 * window, MAX_WINDOW)
            elif 2 * length > window:
                self.windows[index] = max(window - max(window // 8, 1), MIN_WINDOW)
