"""Whether Redis may throw messages away by itself. It costs no job, only time until the rows are announced again."""

from collections.abc import Mapping
from typing import Any

SAFE = "noeviction"


def eviction_warning(memory: Mapping[str, Any]) -> str | None:
    """What is to be said of the answer to INFO memory; None: nothing. A service that hides its policy may have any."""
    policy = memory.get("maxmemory_policy", SAFE)
    if policy == SAFE:
        return None
    return f"Redis's maxmemory-policy is {policy}: set noeviction, or messages vanish under load and jobs start late"
