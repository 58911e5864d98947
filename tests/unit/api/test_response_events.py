"""The events of a response: OpenAI's order, and numbers from which anyone goes on."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from api.rendering.bodies import Json
from api.rendering.progress import Item, Progress
from api.rendering.response_events import ENDED_WITHOUT_TEXT, ResponseEvents, known_chars
from models.feed import Delta
from models.records import CompletionRecord, JobError, JobRecord
from models.status import Status
from tests.unit.api.test_rendering import ID, TOKENS, job, unfinished

TEXT = "Hello, world!"
DONE = job(endpoint="/v1/responses", completions=(CompletionRecord(0, TEXT, (1,), "stop", 1, 1),))
WAITS = replace(DONE, status=Status.QUEUED, completions=())
RUNS = replace(WAITS, status=Status.IN_PROGRESS)
PIECES = [Delta(0, 0, "Hel"), Delta(0, 3, "lo, wor")]


def body_of(job: JobRecord) -> Json:
    """As much of a response as its events need."""
    if job.status is not Status.COMPLETED:
        return {"status": str(job.status), "output": []}
    part = {"type": "output_text", "text": job.completions[0].text, "annotations": []}
    return {"status": "completed", "output": [{"type": "message", "content": [part]}]}


def told(items: list[Item], *, starting_after: int = -1) -> list[Any]:
    """What somebody hears who has all up to a number. Pieces pass through a Progress, as they do on their way."""
    progress = Progress({0: known_chars(starting_after)})
    events = ResponseEvents(WAITS, body_of, starting_after=starting_after)
    sent: list[Any] = []
    for item in items:
        new = progress.take(item) if isinstance(item, Delta) else item
        sent += events.render(new) if new is not None else ()
    read = [body.decode().split("\n") for body in sent]
    heard = [orjson.loads(lines[1].removeprefix("data: ")) for lines in read]
    assert [lines[0] for lines in read] == [f"event: {event['type']}" for event in heard]
    return heard


FEED: list[Item] = [WAITS, RUNS, *PIECES, Delta(0, 10, "ld!"), DONE]
TABLE: list[Item] = [Delta(0, 0, TEXT), DONE]


def test_events_come_in_openais_order() -> None:
    heard = told(FEED)

    assert [event["type"].removeprefix("response.") for event in heard] == [
        "created",
        "queued",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in heard] == [0, 1, 2, 3, 4, 7, 14, 17, 18, 19, 20, 21]
    assert [event["response"]["status"] for event in heard if "response" in event] == [
        "queued",
        "queued",
        "in_progress",
        "completed",
    ]


@pytest.mark.parametrize("source", [FEED, TABLE], ids=["feed", "table"])
@pytest.mark.parametrize("starting_after", range(-1, 22))
def test_listener_goes_on_after_any_number(starting_after: int, source: list[Item]) -> None:
    heard = told(source, starting_after=starting_after)

    numbers = [event["sequence_number"] for event in heard]
    assert all(number > starting_after for number in numbers)
    assert numbers == sorted(set(numbers))
    text = "".join(event["delta"] for event in heard if event["type"] == "response.output_text.delta")
    assert text == TEXT[known_chars(starting_after) :]
    ends = [number for number in (18, 19, 20, 21) if number > starting_after]
    assert [number for number in numbers if number > 17] == ends


def test_second_attempt_is_not_told_again() -> None:
    heard = told([WAITS, RUNS, *PIECES, WAITS, RUNS, *PIECES, Delta(0, 10, "ld!"), DONE])

    assert heard == told(FEED)


@pytest.mark.parametrize(("num_more", "is_back"), [(1, False), (4, False), (50, False), (50, True)])
def test_text_that_becomes_shorter_ends_nevertheless(num_more: int, is_back: bool) -> None:
    """A row whose scores are no numbers is answered anew, perhaps in other words, after a part of it was streamed."""
    sent = Delta(0, 0, "x" * (len(TEXT) + num_more))
    rest = Progress({0: len(sent.text)}).rest(DONE.completions[0])
    assert rest is None

    heard = told([WAITS, RUNS, sent, DONE])
    if is_back:  # nearer to the text's end than this nobody could tell which of the two the number is of
        heard = told([DONE], starting_after=heard[-5]["sequence_number"])

    assert [event["type"].removeprefix("response.") for event in heard[-4:]] == [
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert heard[-4]["text"] == TEXT
    numbers = [event["sequence_number"] for event in heard]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED])
@pytest.mark.parametrize("starting_after", [-1, 2, 7, ENDED_WITHOUT_TEXT])
def test_end_without_a_text_comes_behind_any_text(status: Status, starting_after: int) -> None:
    ended = unfinished(status, error=JobError("worker_crashed", "it crashed"))

    heard = told([RUNS, PIECES[0], ended], starting_after=starting_after)

    assert [event["type"] for event in heard[-1:]] == ([f"response.{status}"] if starting_after < 2**31 - 1 else [])


def test_logprobs_come_with_their_text() -> None:
    piece = Delta(0, 0, "é!", 0, TOKENS)
    record = job({"top_logprobs": 1}, endpoint="/v1/responses", id=ID, status=Status.IN_PROGRESS, completions=())

    [*_, sent] = ResponseEvents(record, body_of).render(piece)

    entries = orjson.loads(sent.split(b"data: ")[1])["logprobs"]
    assert [(entry["token"], len(entry["top_logprobs"])) for entry in entries] == [("é", 1), ("!", 1)]
