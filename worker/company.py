"""Whose turn it is: fresh load, or suspects, which run in company of their own (models/suspects.py)."""

import time
from collections.abc import Callable

FRESH_CLAIMS = 3  # so every fourth claim is for suspects, however much fresh load there is
LOOK_SECONDS = 0.5  # for which it is believed that there are no suspects


class Turns:
    """Neither keeps the other waiting for ever. Suspects come at once where nothing else waits.

    A worker begins with one claim of fresh load: one that suspects crash at every start still gets on with the rest.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._num_fresh = FRESH_CLAIMS - 1
        self._look_at = 0.0

    @property
    def suspects_are_due(self) -> bool:
        """Whether to look for suspects before anything else is claimed."""
        return self._num_fresh >= FRESH_CLAIMS and self._clock() >= self._look_at

    def fresh_claimed(self) -> None:
        """Fresh load had a turn."""
        self._num_fresh += 1

    def nothing_fresh(self) -> None:
        """No fresh load waits."""
        self._num_fresh = FRESH_CLAIMS

    def suspects_claimed(self) -> None:
        """Suspects had a turn."""
        self._num_fresh = 0

    def no_suspects(self) -> None:
        """There were none."""
        self._num_fresh = 0
        self._look_at = self._clock() + LOOK_SECONDS
