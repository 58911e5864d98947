"""Stop strings: found across token borders, cut in text and tokens alike."""

from collections.abc import Sequence as Items

import pytest

from worker.engine.finish import finish
from worker.engine.sequence import Sequence, StopSearch
from worker.engine.text_stream import ByteStream
from worker.engine.types import SamplingParams


class FakeStream:
    """Each id stands for a piece of text."""

    def __init__(self, pieces: Items[str]) -> None:
        self.text = ""
        self._pieces = pieces

    def push(self, token_id: int) -> None:
        self.text += self._pieces[token_id]

    def finish(self) -> None:
        """Nothing is held back."""

    def fork(self) -> "FakeStream":
        other = FakeStream(self._pieces)
        other.text = self.text
        return other


def search(pieces: Items[str], *stops: str, include_stop: bool = False) -> tuple[StopSearch, int | None]:
    """Push pieces until a stop is found; give the number of tokens pushed then."""
    found = StopSearch(FakeStream(pieces), stops, include_stop=include_stop)
    for index in range(len(pieces)):
        if found.push(index, may_stop=True):
            return found, index + 1
    return found, None


@pytest.mark.parametrize(
    ("pieces", "stops", "text", "num_tokens"),
    [
        (["ab", "cd"], ["b"], "a", 1),
        (["ab", "cd", "ef"], ["bcde"], "a", 1),
        (["ab", "cd"], ["ab"], "", 0),
        (["ab", "", "cd"], ["cd"], "ab", 1),
        (["a", "b", "abc"], ["aba", "bab"], "", 0),
        (["xENDy"], ["END", "E"], "x", 1),
    ],
)
def test_stop_is_cut(pieces: list[str], stops: list[str], text: str, num_tokens: int) -> None:
    found, _ = search(pieces, *stops)
    assert (found.text(), found.num_tokens()) == (text, num_tokens)


def test_stop_can_be_kept() -> None:
    found, _ = search(["ab", "cd"], "bc", include_stop=True)
    assert (found.text(), found.num_tokens()) == ("abc", 2)


def test_no_stop_keeps_everything() -> None:
    found, at = search(["ab", "cd"], "x")
    assert (at, found.end) == (None, None)


def test_stop_before_min_tokens_is_passed_over() -> None:
    pieces = ["END", "a", "END"]
    sequence = Sequence(
        "r", [1], SamplingParams(min_tokens=2), 9, (), StopSearch(FakeStream(pieces), ("END",), include_stop=False)
    )
    seen = []
    for index in range(3):
        sequence.num_generated += 1
        seen.append(sequence.observe(index))
    assert seen == [False, False, True]
    assert sequence.stop_search is not None
    assert sequence.stop_search.text() == "ENDa"


def test_stop_token_adds_no_text() -> None:
    stop_search = StopSearch(FakeStream(["x", "END"]), ("END",), include_stop=False)
    sequence = Sequence("r", [1], SamplingParams(), 9, (1,), stop_search)
    sequence.num_generated = 2
    assert not sequence.observe(1)
    assert sequence.cut([0, 1]) == (1, "stop")


@pytest.mark.parametrize(
    ("stop", "text", "num_tokens", "reason"),
    [
        ("zz", "ab\N{REPLACEMENT CHARACTER}", 3, "length"),
        ("\N{REPLACEMENT CHARACTER}", "ab", 2, "stop"),
        ("b\N{REPLACEMENT CHARACTER}", "a", 1, "stop"),
    ],
)
def test_half_a_character_at_the_end_is_text_and_may_complete_a_stop(
    stop: str, text: str, num_tokens: int, reason: str
) -> None:
    pieces = [b"a", b"b", b"\xe2\x82"]
    stop_search = StopSearch(ByteStream(lambda index: pieces[index]), (stop,), include_stop=False)
    sequence = Sequence("r", [1], SamplingParams(max_tokens=3), 3, (), stop_search)
    for index in range(3):
        sequence.num_generated += 1
        assert not sequence.observe(index)
    answer = finish(sequence, [0, 1, 2], [-1.0] * 3, tokenizer=None)
    assert (answer.text, len(answer.token_ids), answer.finish_reason) == (text, num_tokens, reason)
