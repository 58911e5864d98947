"""Pieces of streams on their way to Redis: joined where they follow each other, dropped rather than waited for."""

from uuid import UUID

import pytest
from redis import Redis

from models.feed import Delta
from worker.streamer import MAX_ROUNDS, Streamer, merge

ONE, TWO = UUID(int=1), UUID(int=2)


def test_pieces_that_follow_each_other_become_one() -> None:
    entries = [
        (ONE, Delta(0, 0, "a", 0, [{"token": "a"}], [7])),
        (TWO, Delta(0, 0, "x")),
        (ONE, Delta(1, 0, "A")),
        (ONE, Delta(0, 1, "bc", 1, [{"token": "bc"}], [8])),
        (TWO, Delta(0, 1, "y")),
    ]
    assert merge(entries) == [
        (ONE, Delta(0, 0, "abc", 0, [{"token": "a"}, {"token": "bc"}], [7, 8])),
        (TWO, Delta(0, 0, "xy", 0, [], [])),
        (ONE, Delta(1, 0, "A")),
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Delta(0, 0, "a"), Delta(0, 5, "b")),
        (
            Delta(0, 0, "a", 0, [{}], [7]),
            Delta(0, 1, "b", 2, [{}], [9]),
        ),  # a token that is half a character has no text
        (Delta(0, 0, "a", 0, [{}]), Delta(0, 1, "b", 2, [{}])),
        (Delta(0, 0, "a", 0, (), [7]), Delta(0, 1, "b", 2, (), [9])),
    ],
)
def test_pieces_with_a_gap_between_them_stay_apart(first: Delta, second: Delta) -> None:
    assert merge([(ONE, first), (ONE, second)]) == [(ONE, first), (ONE, second)]


def test_echoed_prompt_stays_alone_where_ids_are_wanted() -> None:
    """It has none, so that a reader could not tell any more which of the pieces' tokens the ids are of."""
    entries = [(ONE, Delta(0, 0, "prompt", 0, [{}, {}], [])), (ONE, Delta(0, 6, "a", 2, [{}], [7]))]
    assert merge(entries) == entries


def test_what_is_too_much_is_dropped_and_counted() -> None:
    """Nobody takes them here: the thread was not started."""
    streamer = Streamer(Redis(), on_crash=lambda: None)
    for _ in range(MAX_ROUNDS + 3):
        streamer.put([(ONE, Delta(0, 0, "a")), (TWO, Delta(0, 0, "b"))])
    assert streamer.num_dropped == 6
