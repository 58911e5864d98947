"""Waiting for what other processes do: looked for often, never slept for."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], seconds: float = 90.0) -> None:
    """Look until it holds; fail with the time it was given."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, f"did not happen within {seconds} s"
        time.sleep(0.02)
