"""The messages on the queue: names, queues, priorities, chunks. Redis carries them; this module knows no Redis.

A message is a hint that job ids are ready; the jobs table is the truth. Losing or repeating one is harmless.
"""

from bisect import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.records import Hint

GENERATE = "generate"  # one inline job: generate(prompt=..., **parameters), task id = job id
GENERATE_CHUNK = "generate_chunk"  # ids of jobs whose payloads are in the database
INTAKE = "intake"  # the id of a batch whose input is to be read
INTAKE_QUEUE = "intake"  # every worker's, whatever its model
MAX_CHUNK = 256  # ids a message at most: 68 bytes of Redis a job, and one acknowledgement for many
MIN_CHUNK = 32  # small enough that several workers share a short queue
SPREAD = 64  # messages into which a submission is cut if its chunks then stay within those limits
TOP_PRIORITY = 9

# Redis keys of kombu's bookkeeping of unacknowledged messages. Our own names, because the scan that gives timed-out
# messages back uses the scanner's timeout for every message it finds: sharing the default keys with another Celery
# application would hand out its long tasks again.
UNACKED_KEYS = {
    "unacked_key": "batchmill.unacked",
    "unacked_index_key": "batchmill.unacked_index",
    "unacked_mutex_key": "batchmill.unacked_mutex",
}
PRIORITY_STEPS = [0, 3, 6, 9]
NUM_LISTS = len(PRIORITY_STEPS)  # of a model, emptied in this order
MARKER_KEY = "batchmill.marker"  # lives as long as Redis keeps its data; gone: the hints are gone too


@dataclass(frozen=True, slots=True)
class ChunkMessage:
    """One `generate_chunk` message, ready to be sent."""

    ids: list[str]
    queue: str
    redis_priority: int


def queue_of(model: str) -> str:
    """The queue on which a model's jobs wait."""
    return f"{GENERATE}.{model}"


def redis_priority(priority: int) -> int:
    """Our 9 is soonest, Redis's 0 is; the one place where the two meet."""
    return TOP_PRIORITY - priority


def list_index(priority: int) -> int:
    """Which of its model's lists a message of our priority goes to; 0 is emptied first."""
    return bisect(PRIORITY_STEPS, redis_priority(priority)) - 1


def priorities_of(index: int) -> list[int]:
    """Our priorities that share a list, rising."""
    return [priority for priority in range(TOP_PRIORITY + 1) if list_index(priority) == index]


def redis_lists(model: str) -> list[str]:
    """The Redis lists that hold a queue's messages, one a priority step (kombu's naming)."""
    queue = queue_of(model)
    return [f"{queue}\x06\x16{step}" if step else queue for step in PRIORITY_STEPS]


def chunk_messages(hints: Iterable["Hint"], num_messages: int = SPREAD) -> Iterator[ChunkMessage]:
    """Group ready jobs into messages: one model, one priority, one level of suspicion each; order is kept. Jobs of one
    kind are cut into `num_messages` at most, unless that makes them longer than MAX_CHUNK."""

    def kind(hint: "Hint") -> tuple[str, int, int]:
        return (hint.model, -hint.priority, hint.suspicion)

    for (model, priority, _), group in groupby(sorted(hints, key=kind), key=kind):
        ids = [str(hint.id) for hint in group]
        size = min(max(-(-len(ids) // max(num_messages, 1)), MIN_CHUNK), MAX_CHUNK)
        for start in range(0, len(ids), size):
            yield ChunkMessage(ids[start : start + size], queue_of(model), redis_priority(-priority))
