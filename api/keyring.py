"""API keys as the service sees them: looked up rarely, checked at every request."""

import logging
import time
from collections.abc import Callable

from fastapi.concurrency import run_in_threadpool

from models.errors import BatchmillError
from models.key_store import KeyStore
from models.keys import PresentedKey, matches
from models.records import KeyRecord

log = logging.getLogger(__name__)

CACHE_SECONDS = 5.0  # a key revoked, or the first one made, by another process is noticed this much later at most
MAX_CACHED = 10_000  # ids, of which callers can invent any number


class Keyring:
    """Remembers keys, and ids that name none, for CACHE_SECONDS. Belongs to the event loop; queries run on threads."""

    def __init__(self, store: KeyStore, clock: Callable[[], float] = time.monotonic) -> None:
        self.store = store
        self._clock = clock
        self._found: dict[str, tuple[float, KeyRecord | None]] = {}  # by id: until when, what; oldest first
        self._exists = False
        self._exists_until = 0.0

    async def find(self, presented: PresentedKey) -> KeyRecord | None:
        """The stored key that was presented, if it is good now."""
        cached = self._found.get(presented.id)
        if cached is None or cached[0] <= self._clock():
            record = await run_in_threadpool(self._read, presented)
            self._found.pop(presented.id, None)
            if len(self._found) >= MAX_CACHED:
                del self._found[next(iter(self._found))]
            cached = self._found[presented.id] = (self._clock() + CACHE_SECONDS, record)
        record = cached[1]
        return record if matches(presented, None if record is None else record.digest) else None

    async def exists(self) -> bool:
        """Whether any key was ever made. Once true it stays so, as rows of keys are never removed."""
        if not self._exists and self._exists_until <= self._clock():
            self._exists = await run_in_threadpool(self.store.exists)
            self._exists_until = self._clock() + CACHE_SECONDS
        return self._exists

    def forget(self) -> None:
        """Look again from now on: this process changed the keys itself."""
        self._found.clear()
        self._exists_until = 0.0

    def _read(self, presented: PresentedKey) -> KeyRecord | None:
        record = self.store.find(presented.id)
        if record is not None and matches(presented, record.digest):
            try:
                self.store.touch(record.id)
            except BatchmillError as error:  # a full disk or a busy writer is no reason to turn a good key away
                log.warning("cannot note the use of a key: %s", error, extra={"action": "key_touch_failed"})
        return record
