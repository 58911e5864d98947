"""The feed of a job that streams: text as it is decoded, on its way from a worker to whoever listens.

A Redis stream a job, read from its beginning by every listener. It is a shortcut and never the truth: what a job says
is a function of its request, so a feed that is lost, late, repeated by a second attempt or cut short is made good from
the offsets below and from the committed result.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

TTL_SECONDS = 600  # after the last entry; then the table has the result
FIELD = b"delta"  # of each entry


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of one choice's text.

    `offset` counts the characters of the choice before it and `token_offset` the tokens: a listener that knows more
    already drops what it has. `tokens` are in the form of CompletionRecord.details["tokens"], where the request asked
    for logprobs; `token_ids` where it asked for them.
    """

    choice: int
    offset: int
    text: str
    token_offset: int = 0
    tokens: Sequence[Mapping[str, Any]] = ()
    token_ids: Sequence[int] = ()


def feed_key(job_id: UUID) -> str:
    """The Redis key of a job's feed."""
    return f"batchmill.feed.{job_id.hex}"


def encode(delta: Delta) -> bytes:
    """Write an entry: a JSON list in the order of the fields."""
    return orjson.dumps(
        [delta.choice, delta.offset, delta.text, delta.token_offset, [*delta.tokens], [*delta.token_ids]]
    )


def decode(entry: bytes) -> Delta:
    """Read what encode wrote. Raises ValueError for anything else."""
    values = orjson.loads(entry)
    if not isinstance(values, list) or len(values) != 6:
        raise ValueError("not an entry of a feed")
    return Delta(*values)
