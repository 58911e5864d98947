"""What a request is refused for, by code."""

from pathlib import Path

import pytest

from tests.unit.engine.models import write_tiktoken
from worker.engine import Request, RowError, SamplingParams
from worker.engine.chat import load_chat_template
from worker.engine.prepare import Preparer
from worker.engine.tokenizer import load_tokenizer


@pytest.fixture
def preparer(tmp_path: Path) -> Preparer:
    write_tiktoken(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer is not None
    return Preparer(
        vocab_size=199,
        max_model_len=20,
        eos_token_ids=(2, 500),
        tokenizer=tokenizer,
        chat_template=load_chat_template(tmp_path, tokenizer),
    )


def refusal(preparer: Preparer, request: Request) -> RowError:
    with pytest.raises(RowError) as caught:
        preparer.prepare(request)
    return caught.value


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (Request("a"), "invalid_value"),
        (Request("a", "x", messages=[]), "invalid_value"),
        (Request("a", ""), "empty_prompt"),
        (Request("a", []), "empty_prompt"),
        (Request("a", [1, 199]), "invalid_token_id"),
        (Request("a", [-1]), "invalid_token_id"),
        (Request("a", [True]), "invalid_token_id"),
        (Request("a", "\ud800"), "invalid_unicode"),
        (Request("a", messages=[{"role": "user", "content": "\ud800"}]), "invalid_unicode"),
        (Request("a", messages=[]), "invalid_messages"),
        (Request("a", messages=[{"role": "user"}]), "invalid_messages"),
    ],
)
def test_refusals_have_codes(preparer: Preparer, request_: Request, code: str) -> None:
    assert refusal(preparer, request_).code == code


def test_context_refusal_names_the_three_numbers(preparer: Preparer) -> None:
    error = refusal(preparer, Request("a", [1] * 12, params=SamplingParams(max_tokens=9)))
    assert error.code == "context_length_exceeded"
    assert all(number in error.message for number in ("12 tokens", "(9)", "of 20"))
    assert refusal(preparer, Request("a", [1] * 20, params=SamplingParams(max_tokens=None))).code == error.code


def test_crop_lets_rows_outgrow_the_context(preparer: Preparer) -> None:
    params = SamplingParams(max_tokens=90, context_overflow="crop")
    sequence = preparer.prepare(Request("a", list(range(3, 33)), params=params))
    assert (sequence.max_new_tokens, sequence.context_length) == (90, 20)
    assert sequence.prompt_token_ids == list(range(3, 33))
    open_end = SamplingParams(max_tokens=None, context_overflow="crop")
    assert preparer.prepare(Request("a", [1] * 15, params=open_end)).max_new_tokens == 5
    assert "max_tokens must be set" in refusal(preparer, Request("a", [1] * 20, params=open_end)).message
    scored = SamplingParams(context_overflow="crop", prompt_logprobs=0)
    assert refusal(preparer, Request("a", [1] * 21, params=scored)).code == "context_length_exceeded"


def test_prompts_are_truncated_at_their_beginning(preparer: Preparer) -> None:
    params = SamplingParams(truncate_prompt_tokens=3, max_tokens=5)
    assert preparer.prepare(Request("a", [1] * 50 + [4, 5, 6], params=params)).prompt_token_ids == [4, 5, 6]
    assert preparer.prepare(Request("a", "xy", params=params)).prompt_token_ids == [ord("x"), ord("y")]
    chat = preparer.prepare(Request("a", messages=[{"role": "user", "content": "hello"}], params=params))
    assert chat.prompt_token_ids == [ord("o"), 190, 192]


def test_a_prompt_may_fill_the_context_where_nothing_is_generated(preparer: Preparer) -> None:
    for params in (SamplingParams(max_tokens=0, echo=True), SamplingParams(max_tokens=0, prompt_logprobs=0)):
        assert preparer.prepare(Request("a", [1] * 20, params=params)).max_new_tokens == 0
        assert refusal(preparer, Request("a", [1] * 21, params=params)).code == "context_length_exceeded"


def test_no_limit_runs_to_the_end_of_the_context(preparer: Preparer) -> None:
    assert preparer.prepare(Request("a", [1] * 12, params=SamplingParams(max_tokens=None))).max_new_tokens == 8


def test_stop_tokens_join_the_models(preparer: Preparer) -> None:
    params = SamplingParams(stop_token_ids=(7, 2, 300))
    assert preparer.prepare(Request("a", [1], params=params)).stop_token_ids == (2, 7)
    ignoring = SamplingParams(stop_token_ids=(7,), ignore_eos=True)
    assert preparer.prepare(Request("a", [1], params=ignoring)).stop_token_ids == (7,)


def test_models_without_tokenizer_or_template_say_so(preparer: Preparer) -> None:
    bare = Preparer(vocab_size=199, max_model_len=20, eos_token_ids=(), tokenizer=None, chat_template=None)
    assert refusal(bare, Request("a", "text")).code == "unsupported_parameter"
    assert refusal(bare, Request("a", messages=[{"role": "user", "content": "x"}])).code == "unsupported_parameter"
    assert refusal(bare, Request("a", [1], params=SamplingParams(stop=("x",)))).code == "unsupported_parameter"
    assert bare.prepare(Request("a", [1])).prompt_token_ids == [1]
