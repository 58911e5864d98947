"""The events of a response, in OpenAI's order, numbered so that a listener can go on anywhere.

An event's number is a function of the text alone: a piece of it has the number of its last character. So whoever has
read up to number N goes on behind it, from the feed or from the table, at any process, after any loss. Numbers rise
and are not dense. Where a row was answered anew in float32 the committed text may be shorter than what was sent of
the first: its end then comes behind that. Knows neither FastAPI nor where pieces come from.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from api.rendering.bodies import Json
from api.rendering.progress import Item
from api.rendering.streams import ServerEvent, piece_logprobs
from models.feed import Delta
from models.ids import public_id
from models.records import JobRecord
from models.status import FINAL, Status

CREATED, QUEUED, IN_PROGRESS, ITEM_ADDED, PART_ADDED = range(5)
# The first character of the text has the number after PART_ADDED. Behind its last one come these:
TEXT_DONE, PART_DONE, ITEM_DONE, ENDED = range(1, 5)
ENDED_WITHOUT_TEXT = 2**31 - 1  # failed or cancelled: behind any text, however much of it was sent
BEFORE_ALL = -1


def known_chars(starting_after: int) -> int:
    """How many characters of the text somebody has who has read up to a number."""
    return max(0, starting_after - PART_ADDED)


class ResponseEvents:
    """Renders a job of /v1/responses. `response_body` is how its response object is written."""

    def __init__(
        self, job: JobRecord, response_body: Callable[[JobRecord], Json], *, starting_after: int = BEFORE_ALL
    ) -> None:
        self._job = job
        self._body = response_body
        self._last = starting_after
        self._last_piece = BEFORE_ALL  # that was sent here
        self._item_id = public_id("message", job.id)
        self._num_top = job.body.get("top_logprobs") or 0

    def render(self, item: Item) -> Iterator[bytes]:
        """The events that tell of a piece or of a state."""
        yield from self._state(CREATED, "created", Status.QUEUED)
        if isinstance(item, Delta):
            yield from self._open()
            yield from self._piece(item)
        elif item.status is Status.QUEUED:
            yield from self._state(QUEUED, "queued", Status.QUEUED)
        elif item.status not in FINAL:
            yield from self._state(IN_PROGRESS, "in_progress", Status.IN_PROGRESS)
        elif item.status is Status.COMPLETED:
            yield from self._open()
            yield from self._completed(item)
        else:
            body = self._body(item)
            yield from self._event(ENDED_WITHOUT_TEXT, str(body["status"]), {"response": body})

    def _open(self) -> Iterator[bytes]:
        """What comes before the first character."""
        yield from self._state(IN_PROGRESS, "in_progress", Status.IN_PROGRESS)
        message: Json = {"id": self._item_id, "type": "message", "status": "in_progress", "role": "assistant"}
        yield from self._event(ITEM_ADDED, "output_item.added", {"output_index": 0, "item": message | {"content": []}})
        part: Json = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield from self._event(PART_ADDED, "content_part.added", self._place() | {"part": part})

    def _piece(self, piece: Delta) -> Iterator[bytes]:
        number = self._last_piece = PART_ADDED + piece.offset + len(piece.text)
        delta = {"delta": piece.text, "logprobs": piece_logprobs(piece, self._num_top)}
        yield from self._event(number, "output_text.delta", self._place() | delta)

    def _completed(self, job: JobRecord) -> Iterator[bytes]:
        """What comes behind the last character."""
        body = self._body(job)
        [message] = body["output"]
        [part] = message["content"]
        last = self._end_of(part["text"])
        text = {"text": part["text"], "logprobs": part.get("logprobs") or []}
        yield from self._event(last + TEXT_DONE, "output_text.done", self._place() | text)
        yield from self._event(last + PART_DONE, "content_part.done", self._place() | {"part": part})
        yield from self._event(last + ITEM_DONE, "output_item.done", {"output_index": 0, "item": message})
        yield from self._event(last + ENDED, str(body["status"]), {"response": body})

    def _end_of(self, text: str) -> int:
        """The number behind which a text is done; where the listener was sent more than all of it, that one's."""
        last = PART_ADDED + len(text)
        has_more = self._last_piece > last or self._last > last + ENDED
        return self._last if has_more else last

    def _place(self) -> Json:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _state(self, number: int, name: str, status: Status) -> Iterator[bytes]:
        """The response as it was then, whatever became of it meanwhile."""
        if number > self._last:
            was = replace(self._job, status=status, completions=(), error=None, finished_at=None)
            yield from self._event(number, name, {"response": self._body(was)})

    def _event(self, number: int, name: str, content: Json) -> Iterator[bytes]:
        """An event, unless the listener has it."""
        if number > self._last:
            self._last = number
            type = f"response.{name}"
            yield ServerEvent({"type": type, "sequence_number": number, **content}, name=type).encode()
