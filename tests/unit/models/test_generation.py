"""The fields that shape a decode: their ranges, the rules between them, and that they survive being stored."""

from typing import Any

import pytest

from models.errors import RequestError
from models.packing import dump_json, load_json
from models.requests import parse_request, read_stored, stored_body

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
USER = [{"role": "user", "content": "hi"}]
BIAS = {"50256": -100, "0": 2.5, "2147483647": 100}

# Each field with values that are not its default: both ends of its range, or every kind it has.
VALID: list[tuple[str, Any]] = [
    ("repetition_penalty", 0.01),
    ("repetition_penalty", 100),
    ("frequency_penalty", -2),
    ("frequency_penalty", 2.0),
    ("presence_penalty", -2.0),
    ("presence_penalty", 2),
    ("logit_bias", BIAS),
    ("logit_bias", {str(number): 0.5 for number in range(300)}),
    ("n", 2),
    ("n", 128),
    ("best_of", 1),
    ("best_of", 128),
    ("echo", True),
    ("prompt_logprobs", 0),
    ("prompt_logprobs", 20),
    ("truncate_prompt_tokens", 1),
    ("context_overflow", "crop"),
    ("use_beam_search", True),
]
OFF: dict[str, Any] = {
    "repetition_penalty": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0.0,
    "logit_bias": {},
    "n": 1,
    "best_of": None,
    "echo": False,
    "prompt_logprobs": None,
    "truncate_prompt_tokens": None,
    "context_overflow": "error",
    "use_beam_search": False,
    "length_penalty": 1,
    "early_stopping": False,
}
WRONG: dict[str, list[Any]] = {
    "repetition_penalty": [0, -1, 0.009, 100.1, float("nan"), float("inf"), "1", True],
    "frequency_penalty": [-2.1, 2.1, float("nan"), "0", True, [1]],
    "presence_penalty": [-2.1, 2.1, float("-inf"), "0", False],
    "n": [0, -1, 129, 10**9, 2.0, "2", True],
    "best_of": [0, 129, 1.5, "2", True],
    "echo": [1, "true", []],
    "prompt_logprobs": [-1, 21, 1.0, True, "5"],
    "truncate_prompt_tokens": [0, -1, 2**31, 4.0, True],
    "context_overflow": ["truncate", "", 1, True],
    "use_beam_search": [1, "yes"],
    "length_penalty": [float("nan"), float("inf"), 10.1, -10.1, "1", True],
    "early_stopping": ["always", 1, "True", []],
    "max_tokens": [-1, 2**31, 0.0, False],
}
BAD_BIASES: list[Any] = [
    [5],
    "5",
    True,
    {"-1": 1},
    {"07": 1},
    {"1.0": 1},
    {" 7": 1},
    {"٣": 1},
    {"": 1},
    {"2147483648": 1},
    {7: 1},
    {"secret words": 1},
    {"5": 100.1},
    {"5": -101},
    {"5": float("nan")},
    {"5": 10**400},
    {"5": "1"},
    {"5": True},
    {"5": None},
    {str(number): 1 for number in range(301)},
]


def refusal(endpoint: str, fields: dict[str, Any]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse_request(endpoint, ({"prompt": "a"} if endpoint == COMPLETIONS else {"messages": USER}) | fields)
    return caught.value


@pytest.mark.parametrize(("name", "value"), VALID)
def test_value_in_range_is_stored_and_read_back(name: str, value: object) -> None:
    body = stored_body(parse_request(COMPLETIONS, {"prompt": "a", name: value}))
    stored = load_json(dump_json(body))
    assert stored[name] == value
    assert read_stored(COMPLETIONS, stored)[name] == value
    assert stored_body(parse_request(COMPLETIONS, stored)) == body


@pytest.mark.parametrize("endpoint", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("spelling", [OFF, dict.fromkeys(OFF)], ids=["off", "null"])
def test_what_is_off_is_not_stored(endpoint: str, spelling: dict[str, Any]) -> None:
    prompt: dict[str, Any] = {"prompt": "a"} if endpoint == COMPLETIONS else {"messages": USER}
    request = parse_request(endpoint, prompt | spelling | {"seed": 1, "max_tokens": 3})
    assert stored_body(request) == {
        **(prompt if endpoint == COMPLETIONS else {"messages": [{"role": "user", "content": "hi"}]}),
        "seed": 1,
        "max_tokens": 3,
    }


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_value_out_of_range_or_of_another_type_is_named(name: str, value: object) -> None:
    beams = {"use_beam_search": True} if name in ("length_penalty", "early_stopping") else {}
    error = refusal(COMPLETIONS, beams | {name: value})
    assert (error.error_code, error.param) == ("invalid_value", name)
    assert error.message.startswith(name)


@pytest.mark.parametrize("value", BAD_BIASES, ids=range(len(BAD_BIASES)))
def test_bad_logit_bias_has_one_answer(value: object) -> None:
    error = refusal(COMPLETIONS, {"logit_bias": value})
    assert (error.error_code, error.param) == ("invalid_logit_bias", "logit_bias")
    assert error.message == (
        "logit_bias must map at most 300 token ids, written as decimal strings, to numbers from -100 to 100"
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 3, "best_of": 3},
        {"n": 2, "best_of": 4, "use_beam_search": True, "length_penalty": -1.0, "early_stopping": "never"},
        {"n": 2, "use_beam_search": True, "length_penalty": 2, "early_stopping": True},
        {"use_beam_search": True},
    ],
)
def test_answers_and_beams_that_fit_together_are_let_in(fields: dict[str, Any]) -> None:
    for endpoint, prompt in ((COMPLETIONS, {"prompt": "a"}), (CHAT, {"messages": USER})):
        values = read_stored(endpoint, stored_body(parse_request(endpoint, prompt | fields)))
        assert {name: values[name] for name in fields} == fields


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"n": 3, "best_of": 2}, "best_of", "best_of must be at least n"),
        ({"n": 3, "best_of": 2, "use_beam_search": True}, "best_of", "best_of must be at least n"),
        ({"length_penalty": 0.5}, "length_penalty", "length_penalty needs use_beam_search"),
        ({"early_stopping": "never"}, "early_stopping", "early_stopping needs use_beam_search"),
        ({"max_tokens": 0, "echo": True, "use_beam_search": True}, "max_tokens", "with use_beam_search"),
        ({"max_tokens": 0}, "max_tokens", "at least 1 without echo or prompt_logprobs"),
        ({"max_tokens": 0, "logprobs": 1}, "max_tokens", "at least 1 without echo or prompt_logprobs"),
    ],
)
def test_fields_that_contradict_each_other_are_named(fields: dict[str, Any], param: str, message: str) -> None:
    error = refusal(COMPLETIONS, fields)
    assert (error.error_code, error.param) == ("invalid_value", param)
    assert message in error.message


@pytest.mark.parametrize("asked", [{"echo": True}, {"echo": True, "logprobs": 1}, {"prompt_logprobs": 0}])
def test_no_tokens_score_the_prompt(asked: dict[str, Any]) -> None:
    stored = stored_body(parse_request(COMPLETIONS, {"prompt": "a", "max_tokens": 0, **asked}))
    assert read_stored(COMPLETIONS, stored)["max_tokens"] == 0


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_chat_scores_its_prompt_only_for_prompt_logprobs(name: str) -> None:
    assert parse_request(CHAT, {"messages": USER, name: 0, "prompt_logprobs": 1}).max_tokens == 0
    error = refusal(CHAT, {name: 0, "logprobs": True})
    assert (error.param, error.message) == ("max_tokens", "max_tokens must be at least 1 without prompt_logprobs")


def test_chat_may_echo_as_well() -> None:
    assert stored_body(parse_request(CHAT, {"messages": USER, "echo": True}))["echo"] is True
