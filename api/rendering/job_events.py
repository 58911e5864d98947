"""The events of a job: its states and its text, each under an id from which a listener can go on.

Knows neither FastAPI nor where pieces come from.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from api.rendering.jobs import job_body, job_entry
from api.rendering.progress import Item
from api.rendering.streams import ServerEvent
from models.errors import RequestError
from models.feed import Delta
from models.records import JobRecord
from models.status import FINAL

MAX_PLACED_CHOICES = 16  # a longer id would outweigh the text; who loses such a stream hears its texts again
MAX_CURSOR_CHARS = 256
_CURSOR = re.compile(r"([a-z_]{6,11})\.(\d{1,9})(?:/(\d{1,9}(?:,\d{1,9})*))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a listener got: the state it knows and the characters it has of each choice."""

    state: str = ""
    chars: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """Read the id of an event. Raises RequestError for one that was never an event's."""
        if not text:
            return cls()
        match = _CURSOR.fullmatch(text) if len(text) <= MAX_CURSOR_CHARS else None
        if match is None:
            raise RequestError("invalid_value", "Last-Event-ID is the id of no event of a job", param="Last-Event-ID")
        status, attempt, chars = match.groups()
        return cls(f"{status}.{attempt}", dict(enumerate(map(int, chars.split(",")))) if chars else {})

    @property
    def is_final(self) -> bool:
        """Whether nothing comes after it."""
        return self.state.partition(".")[0] in FINAL


class JobEvents:
    """Renders any job: `status` with each change, `delta` with each piece of text, and `job` at the end, whole."""

    def __init__(self, cursor: Cursor) -> None:
        self._state = cursor.state
        self._chars = defaultdict(int, cursor.chars)

    def render(self, item: Item) -> Iterator[bytes]:
        """The events that tell of a piece or of a state."""
        if isinstance(item, Delta):
            self._chars[item.choice] = item.offset + len(item.text)
            piece = {"choice": item.choice, "offset": item.offset, "text": item.text}
            yield ServerEvent(piece, name="delta", id=self._id()).encode()
        elif item.status in FINAL:
            self._state = _state_of(item)
            yield ServerEvent(job_body(item), name="job", id=self._id()).encode()
        elif _state_of(item) != self._state:
            self._state = _state_of(item)
            yield ServerEvent(job_entry(item), name="status", id=self._id()).encode()

    def _id(self) -> str:
        """Where the listener is now."""
        state = self._state or "queued.0"
        num_choices = max(self._chars, default=-1) + 1
        if not 0 < num_choices <= MAX_PLACED_CHOICES:
            return state
        return f"{state}/{','.join(str(self._chars[choice]) for choice in range(num_choices))}"


def _state_of(job: JobRecord) -> str:
    return f"{job.status}.{job.attempt}"
