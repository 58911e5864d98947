"""Text by its place: however a feed repeats, loses and cuts it, a listener gets each character once."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.rendering.progress import Progress
from models.feed import Delta
from models.records import CompletionRecord

TEXT = "Hällo, wörld!"
TOKENS = [{"token": char, "logprob": -1.0, "offset": place, "top": []} for place, char in enumerate(TEXT)]
IDS = list(range(100, 100 + len(TEXT)))
COMMITTED = CompletionRecord(0, TEXT, IDS, "stop", 3, len(IDS), details={"tokens": TOKENS})

spans = st.tuples(st.integers(0, len(TEXT)), st.integers(0, len(TEXT))).map(sorted)


def piece(start: int, end: int) -> Delta:
    """A token a character, so that places of text and of tokens are the same."""
    return Delta(0, start, TEXT[start:end], start, TOKENS[start:end], IDS[start:end])


@given(st.lists(spans))
def test_any_feed_and_the_committed_result_give_the_text_once(published: list[list[int]]) -> None:
    progress = Progress(with_ids=True)

    taken = [progress.take(piece(start, end)) for start, end in published] + [progress.rest(COMMITTED)]

    known = [new for new in taken if new is not None]
    assert "".join(new.text for new in known) == TEXT
    assert [entry for new in known for entry in new.tokens] == TOKENS
    assert [token_id for new in known for token_id in new.token_ids] == IDS
    assert [new.offset for new in known] == [sum(len(new.text) for new in known[:at]) for at in range(len(known))]


@given(st.integers(0, len(TEXT)), st.lists(spans))
def test_listener_that_comes_back_gets_the_rest(known_chars: int, published: list[list[int]]) -> None:
    progress = Progress({0: known_chars})

    taken = [progress.take(piece(start, end)) for start, end in published] + [progress.rest(COMMITTED)]

    known = [new for new in taken if new is not None]
    assert "".join(new.text for new in known) == TEXT[known_chars:]
    assert [entry for new in known for entry in new.tokens] == TOKENS[known_chars:]


@given(st.lists(spans))
def test_ids_of_an_answer_are_told_from_an_echoed_prompts_tokens(published: list[list[int]]) -> None:
    """The prompt has text and tokens in front of the answer's, and no ids."""
    num_echoed = 5
    committed = replace(COMMITTED, token_ids=IDS[num_echoed:])
    progress = Progress(with_ids=True)
    pieces = [Delta(0, 0, TEXT[:num_echoed], 0, TOKENS[:num_echoed])]
    pieces += [piece(max(start, num_echoed), end) for start, end in published if end > num_echoed]

    taken = [progress.take(new) for new in pieces] + [progress.rest(committed)]

    known = [new for new in taken if new is not None]
    assert [entry for new in known for entry in new.tokens] == TOKENS
    assert [token_id for new in known for token_id in new.token_ids] == IDS[num_echoed:]


@given(st.text(max_size=20), st.integers(0, 20), st.integers(0, 20))
def test_other_text_than_was_published_goes_on_at_its_place(text: str, num_tokens: int, num_ids: int) -> None:
    """A row that was answered anew in float32 may say less, more or something else: nothing is told twice."""
    progress = Progress(with_ids=True)
    ids = list(range(num_ids))
    tokens = [{"token": "x", "logprob": -1.0, "offset": place, "top": []} for place in range(num_tokens)]
    progress.take(Delta(0, 0, text, 0, tokens, ids))

    new = progress.rest(COMMITTED) or Delta(0, len(text), "")

    assert (new.text, [*new.tokens], [*new.token_ids]) == (TEXT[len(text) :], TOKENS[num_tokens:], IDS[num_ids:])


def test_choices_are_told_apart() -> None:
    progress = Progress()
    progress.take(Delta(0, 0, "one"))

    assert progress.take(Delta(1, 0, "two")) == Delta(1, 0, "two", 0, [], ())


@pytest.mark.parametrize("delta", [Delta(0, 0, ""), Delta(0, 1, "x")])
def test_nothing_new_is_nothing(delta: Delta) -> None:
    assert Progress().take(delta) is None
