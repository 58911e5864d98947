"""What each parameter may be: a refusal names the field and its limit."""

from dataclasses import replace
from typing import Any

import pytest

from worker.engine.checks import check_params
from worker.engine.types import RowError, SamplingParams

NAN, INF = float("nan"), float("inf")


def check(**settings: Any) -> None:  # noqa: ANN401 (wrong types are what is tested)
    check_params(SamplingParams(**settings), vocab_size=199)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": -1}, "max_tokens must be a whole number, from 0 to 2147483647"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, or 0 with echo or prompt_logprobs"),
        ({"max_tokens": 2.0}, "max_tokens must be a whole number"),
        ({"temperature": -0.1}, "temperature must be a number from 0"),
        ({"temperature": NAN}, "temperature must be a number"),
        ({"temperature": INF}, "temperature must be a number"),
        ({"temperature": "1"}, "temperature must be a number"),
        ({"temperature": None}, "temperature must be a number"),
        ({"top_k": -2}, "top_k must be a whole number, from -1 to 2147483647"),
        ({"top_k": True}, "top_k must be a whole number"),
        ({"top_p": 1.01}, "top_p must be a number from 0 to 1"),
        ({"min_p": -0.1}, "min_p must be a number from 0 to 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be a number from 1e-30"),
        ({"frequency_penalty": INF}, "frequency_penalty must be a number"),
        ({"presence_penalty": NAN}, "presence_penalty must be a number"),
        ({"length_penalty": NAN}, "length_penalty must be a number"),
        ({"length_penalty": 11.0}, "length_penalty must be a number from -10 to 10"),
        ({"seed": 2**63}, "seed must be a whole number, from -9223372036854775808 to 9223372036854775807"),
        ({"min_tokens": -1}, "min_tokens must be a whole number, from 0 to 2147483647"),
        ({"n": 0}, "n must be a whole number, from 1 to 1024"),
        ({"n": 3, "best_of": 2}, r"best_of \(2\) must be at least n \(3\)"),
        ({"best_of": 0}, "best_of must be a whole number, from 1 to 1024"),
        ({"top_logprobs": 21}, "top_logprobs must be a whole number, from 0 to 20"),
        ({"prompt_logprobs": 21}, "prompt_logprobs must be a whole number, from 0 to 20"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens must be a whole number, from 1 to 2147483647"),
        ({"early_stopping": "always"}, "early_stopping must be one of True, False, never"),
        ({"context_overflow": "drop"}, "context_overflow must be one of error, crop"),
        ({"stop_token_ids": tuple(range(9))}, "stop_token_ids may hold at most 8 ids"),
        ({"logit_bias": ((199, 1.0),)}, "logit_bias must name token ids from 0 to 198, not 199"),
        ({"logit_bias": ((-1, 1.0),)}, "logit_bias must name token ids from 0 to 198, not -1"),
        ({"logit_bias": ((5, NAN),)}, "logit_bias of token 5 must be a number"),
        ({"allowed_token_ids": ()}, "allowed_token_ids must hold at least one token id"),
        ({"allowed_token_ids": (5, 199)}, r"allowed_token_ids\[1\] must be a token id from 0 to 198"),
        ({"bad_words": ("",)}, "bad_words may hold at most 128 words, each of 1 to 64 characters"),
        ({"bad_words": ("a",) * 129}, "bad_words may hold at most 128 words"),
        ({"logit_bias": ((5, 1.0), (5, 2.0))}, "logit_bias may name a token only once"),
        ({"logit_bias": tuple((token, 1.0) for token in range(1025))}, "logit_bias may hold at most 1024 tokens"),
    ],
)
def test_refusals_name_field_and_limit(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RowError, match=message) as caught:
        check(**settings)
    assert caught.value.code == ("invalid_logit_bias" if "logit_bias" in settings else "invalid_value")


@pytest.mark.parametrize(
    "settings",
    [
        {"max_tokens": None},
        {"max_tokens": 0, "echo": True},
        {"max_tokens": 0, "prompt_logprobs": 0},
        {"temperature": 2, "top_k": -1, "top_p": 0, "min_p": 1},
        {"n": 500, "best_of": 500},
        {"seed": -(2**63)},
        {"logit_bias": ((0, -100), (198, 1e6))},
        {"allowed_token_ids": (0, 198)},
        {"bad_words": ("a",) * 128},
        {"min_tokens": 50, "max_tokens": 3},
        {"early_stopping": "never", "context_overflow": "crop"},
    ],
)
def test_what_makes_sense_passes(settings: dict[str, object]) -> None:
    check(**settings)


def test_beams_ignore_what_draws() -> None:
    check(use_beam_search=True, n=2, best_of=8, temperature=0.7, top_k=4, top_p=0.3, min_p=0.2, seed=9, min_tokens=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repetition_penalty": 1.1}, "repetition_penalty is not supported with use_beam_search"),
        ({"logit_bias": ((3, 1.0),)}, "logit_bias is not supported with use_beam_search"),
        ({"allowed_token_ids": (3,)}, "allowed_token_ids is not supported with use_beam_search"),
        ({"bad_words": ("a",)}, "bad_words is not supported with use_beam_search"),
        ({"max_tokens": 0, "echo": True}, "max_tokens must be at least 1 with use_beam_search"),
    ],
)
def test_beams_refuse_what_they_cannot_do(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RowError, match=message):
        check(use_beam_search=True, **settings)


def test_a_refusal_does_not_depend_on_other_fields() -> None:
    """Every range is checked before the first relation between fields."""
    params = replace(SamplingParams(), n=3, best_of=2, top_p=7.0)
    with pytest.raises(RowError, match="top_p"):
        check_params(params, vocab_size=10)
