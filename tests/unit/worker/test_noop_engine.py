"""The engine of dry runs: it answers with the prompt, and obeys what decides the number of answers and tokens."""

from collections.abc import Sequence
from typing import Any

import pytest

from worker.engine.types import Output, Request, RowError, SamplingParams
from worker.noop_engine import NoopEngine


def answer(prompt: str | Sequence[int], **params: Any) -> Output:  # noqa: ANN401 (any parameter)
    engine = NoopEngine()
    engine.add(engine.prepare(Request("r", prompt, params=SamplingParams(**params))))
    (output,) = engine.step()
    return output


@pytest.mark.parametrize(("max_tokens", "text"), [(None, "hello"), (9, "hello"), (2, "he"), (0, "")])
def test_answer_is_the_beginning_of_the_prompt(max_tokens: int | None, text: str) -> None:
    output = answer("hello", max_tokens=max_tokens)
    assert (output.text, len(output.token_ids), len(output.prompt_token_ids)) == (text, len(text), 5)


def test_ids_are_answered_with_ids() -> None:
    assert answer([7, 8, 9], max_tokens=2).token_ids == [7, 8]


def test_there_are_as_many_answers_as_asked_for() -> None:
    assert [completion.text for completion in answer("hello", n=3, max_tokens=1).completions] == ["h"] * 3


def test_echo_puts_the_prompt_first() -> None:
    assert answer("hello", echo=True, max_tokens=0).text == "hello"
    assert answer("hello", echo=True, max_tokens=2).text == "hellohe"
    assert answer([7, 8], echo=True).text == ""


def test_tokens_are_described_as_asked() -> None:
    assert answer("ab").details is None
    assert [entry.logprob for entry in answer("ab", top_logprobs=0, max_tokens=1).details or ()] == [0.0]
    echoed = answer("ab", top_logprobs=0, max_tokens=1, echo=True).details or ()
    assert [(entry.token, entry.logprob, entry.text_offset) for entry in echoed] == [
        ("a", None, 0),
        ("b", 0.0, 1),
        ("a", 0.0, 2),
    ]


def test_prompt_is_scored_as_asked() -> None:
    assert answer("ab").prompt_details is None
    scores = answer("ab", prompt_logprobs=0, max_tokens=0).prompt_details or ()
    assert [(entry.token, entry.logprob) for entry in scores] == [("a", None), ("b", 0.0)]


def test_empty_prompt_is_refused() -> None:
    with pytest.raises(RowError, match="empty"):
        NoopEngine().prepare(Request("r", ""))


def test_cancelled_request_is_not_answered() -> None:
    engine = NoopEngine(rows=2)
    for name in "ab":
        engine.add(Request(name, "x"))
    assert (engine.num_live, engine.num_free) == (2, 0)
    assert (engine.cancel("a"), engine.cancel("a")) == (True, False)
    assert [output.request_id for output in engine.step()] == ["b"]
    assert not engine.has_work
