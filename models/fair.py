"""In what order queued rows are announced: the urgent first, among equals each owner in turn, each owner's in order.

Only so much is announced as the workers will soon take, a window of messages in each of a model's lists: a row that
comes later, of another owner or more urgent, waits behind that window and not behind the whole backlog.

Ageing: a row that waited `ageing_seconds` counts as a class (three priorities) higher, after twice that as two. What is
raised so has a share of the places there and no more: else a backlog of some minutes would know no priorities.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Row

from models import hints
from models.messages import MIN_CHUNK, TOP_PRIORITY, list_index, priorities_of
from models.records import Hint, Line, Turn

AGEING_SECONDS = 300.0
CLASS_STEP = 3  # priorities from one class to the next
RAISED_SHARE = 8  # of the places in a list, one in so many is for rows that age raised into it
MAX_GIVEN_BACK = 4096  # rows of dead workers announced in one go
WINDOW = 16  # messages a list may hold where nobody knows how fast they are taken

_SEQ = attrgetter("seq")


@dataclass(frozen=True, slots=True)
class Room:
    """Places in one of a model's lists, for messages of `chunk` rows. `num_raised` of them may be raised rows' even if
    no others come; `is_before_others` says that messages wait in a list behind this one."""

    num_messages: int
    num_raised: int = 0
    chunk: int = MIN_CHUNK
    is_before_others: bool = False


def rooms(lengths: Sequence[int], windows: Sequence[int], *, chunk: int = MIN_CHUNK) -> list[Room]:
    """What may be added to a model's lists, given how many messages each holds and how many it may hold."""
    return [
        Room(
            max(windows[index] - length, 0),
            max(max(windows[index] // RAISED_SHARE, 1) - length, 0),
            chunk,
            any(lengths[index + 1 :]),
        )
        for index, length in enumerate(lengths)
    ]


def take(connection: Connection, limit: int, model: str | None, ageing_seconds: float) -> list[Hint]:
    """Take up to `limit` rows to be run next, whatever the lists hold."""
    taken: list[Hint] = []
    lines = sorted(hints.lines(connection, model), key=lambda line: line.model)
    for _, some in groupby(lines, key=lambda line: line.model):
        turns = [Turn(line, aged_priority(line, ageing_seconds)) for line in some]
        taken += _take_in_order(connection, turns, limit - len(taken))
    return taken


def take_for_lists(
    connection: Connection, model: str, rooms: Sequence[Room], ageing_seconds: float
) -> list[list[Hint]]:
    """Take what is to be announced in each of a model's lists now, and in front of that what workers gave back."""
    lines = hints.lines(connection, model)
    taken = [_take_given_back(connection, lines)]
    for index, room in enumerate(rooms):
        taken.append(_take_for_list(connection, model, lines, index, room, ageing_seconds))
    return taken


def aged_priority(line: Line, ageing_seconds: float) -> int:
    """The priority that the oldest row of a line has come to."""
    return min(line.priority + CLASS_STEP * int(line.waited_seconds / ageing_seconds), TOP_PRIORITY)


def _take_given_back(connection: Connection, lines: Iterable[Line]) -> list[Hint]:
    """What a worker gave back, or left behind when it died, a class higher: it has waited its turn once."""
    taken: list[Hint] = []
    for line in lines:
        if line.is_given_back:  # the oldest of a line are
            turn = Turn(line, min(line.priority + CLASS_STEP, TOP_PRIORITY))
            taken += _hints(hints.mark(connection, [turn], MAX_GIVEN_BACK, min_attempt=1), turn.priority)
    return taken


def _take_for_list(
    connection: Connection, model: str, lines: Sequence[Line], index: int, room: Room, ageing_seconds: float
) -> list[Hint]:
    """Take the list's own rows, and a share of raised ones: first those whose message lies in a list that is never
    come to, then such as have none."""
    limit = room.num_messages * room.chunk
    raised = [turn for line in lines if (turn := _raised(line, ageing_seconds)) and list_index(turn.priority) == index]
    reserved = limit // RAISED_SHARE if raised or room.is_before_others else 0
    own = [Turn(line, line.priority) for line in lines if list_index(line.priority) == index]
    taken = _take_in_order(connection, own, limit - reserved)
    left = min(limit - len(taken), max(room.num_raised * room.chunk, len(taken) // RAISED_SHARE))
    if left and room.is_before_others:
        stuck = hints.mark_stuck(connection, model, index, left, ageing_seconds)
        taken += _hints(stuck, priorities_of(index)[0])
        left -= len(stuck)
    return taken + _take_in_order(connection, raised, left)


def _raised(line: Line, ageing_seconds: float) -> Turn | None:
    """The turn that a line's age earns its oldest rows, beside its own."""
    priority = aged_priority(line, ageing_seconds)
    num_steps = -(-(priority - line.priority) // CLASS_STEP)
    return Turn(line, priority, num_steps * ageing_seconds) if num_steps else None


def _take_in_order(connection: Connection, turns: Iterable[Turn], limit: int) -> list[Hint]:
    """Take rows of one model, the highest priority first, from turns of the same one alike."""
    taken: list[Hint] = []
    for priority, equal in groupby(sorted(turns, key=_soonest), key=lambda turn: turn.priority):
        taken += _hints(_take_evenly(connection, list(equal), limit - len(taken)), priority)
    return taken


def _soonest(turn: Turn) -> int:
    return -turn.priority


def _take_evenly(connection: Connection, turns: list[Turn], limit: int) -> list[Row[Any]]:
    """Take from each an equal share, and what some do not need from the others; in the order of one row each."""
    if limit <= 0:
        return []
    if len(turns) == 1:  # as nearly always; the bookkeeping below costs as much as the statement
        return sorted(hints.mark(connection, turns, limit), key=_SEQ)
    rows: list[Row[Any]] = []
    while turns and (left := limit - len(rows)) > 0:
        share = max(left // len(turns), 1)
        marked = hints.mark(connection, turns[:left], share)
        rows += marked
        num_of = Counter((row.tenant, row.priority) for row in marked)
        turns = [turn for turn in turns if num_of[turn.line.tenant, turn.line.priority] == share]
    return _in_turn(rows)


def _in_turn(rows: Iterable[Row[Any]]) -> list[Row[Any]]:
    """The first row of each owner, the second of each, and so on."""
    num_before: Counter[str] = Counter()
    placed: list[tuple[int, int, Row[Any]]] = []
    for row in sorted(rows, key=_SEQ):
        placed.append((num_before[row.tenant], row.seq, row))
        num_before[row.tenant] += 1
    return [row for _, _, row in sorted(placed, key=lambda entry: entry[:2])]


def _hints(rows: Iterable[Row[Any]], priority: int) -> list[Hint]:
    return [Hint(row.id, row.model, priority, row.suspicion) for row in rows]
