"""From a message to a delivery, from a claimed job to a request, from an output to an outcome."""

from dataclasses import asdict, replace
from typing import Any
from uuid import uuid4

import pytest

from models.errors import RequestError
from models.ids import job_id_of_task
from models.packing import dump_json, load_json
from models.records import ClaimedJob, JobError
from models.requests import parse_request, stored_body
from models.status import Status
from worker.engine.types import ChatOptions, Completion, Output, SamplingParams, Timings, TokenLogprobs
from worker.rows import (
    engine_requests,
    failed,
    inline_delivery,
    job_key,
    listed_delivery,
    num_prompts,
    outcome_of,
    prompt_index,
)

USER = [{"role": "user", "content": "hi"}]
JOB = ClaimedJob(
    uuid4(), 3, "/v1/completions", "demo", {"prompt": "a", "seed": 7, "stop": ["x"]}, 4, None, 0, "default"
)


def test_inline_message_becomes_a_job_named_by_its_task() -> None:
    delivery = inline_delivery("my task", (), {"prompt": "a", "max_tokens": 3, "priority": 9, "ttl": 60}, model="demo")
    assert delivery.job is not None
    assert delivery.ids == [delivery.job.id] == [job_id_of_task("my task")]
    assert (delivery.job.body["max_tokens"], delivery.priority, delivery.job.error) == (3, 9, None)
    assert delivery.job.deadline is not None


def test_inline_prompt_may_be_positional() -> None:
    delivery = inline_delivery("t", ("a",), {}, model="demo")
    assert delivery.job is not None
    assert delivery.job.body["prompt"] == "a"


@pytest.mark.parametrize(
    ("kwargs", "code"),
    [({}, "missing_required_parameter"), ({"prompt": "a", "model": "other"}, "model_not_found")],
)
def test_bad_inline_message_carries_its_error(kwargs: dict[str, object], code: str) -> None:
    delivery = inline_delivery("t", (), kwargs, model="demo")
    assert delivery.job is not None
    assert delivery.job.error is not None
    assert delivery.job.error.code == code


def test_listed_message_passes_over_what_is_no_id() -> None:
    job_id = uuid4()
    delivery = listed_delivery(([str(job_id), "../x", None],), {"priority": 0})
    assert (delivery.ids, delivery.priority) == ([job_id], 9)
    assert listed_delivery((), {}).ids == []
    assert listed_delivery(("not a list",), {"priority": None}).ids == []


def test_request_carries_the_parameters() -> None:
    [request] = engine_requests(JOB)
    assert (request.id, request.prompt, request.params.seed, request.params.stop) == (str(JOB.id), "a", 7, ("x",))


def test_request_belongs_to_the_jobs_tenant() -> None:
    """The engine shares what it computed of a prompt within one owner only."""
    assert engine_requests(replace(JOB, tenant="somebody"))[0].owner == "somebody"


def test_chat_job_carries_its_messages() -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "seed": 1, "logprobs": True, "top_logprobs": 2}
    [request] = engine_requests(replace(JOB, endpoint="/v1/chat/completions", body=body))
    assert request.prompt is None
    assert request.messages == [{"role": "user", "content": "hi"}]
    assert (request.params.top_logprobs, request.params.max_tokens) == (2, None)


def test_every_parameter_of_the_engine_is_filled_from_the_body() -> None:
    """A parameter that is let in and then forgotten would change answers in silence."""
    given: dict[str, Any] = {
        "max_tokens": 9,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.25,
        "min_p": 0.125,
        "repetition_penalty": 1.5,
        "frequency_penalty": -1,
        "presence_penalty": 0.75,
        "logit_bias": {"5": -100, "7": 1.5},
        "seed": 11,
        "stop": ["x"],
        "stop_token_ids": [4],
        "ignore_eos": True,
        "min_tokens": 2,
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "add_special_tokens": False,
        "truncate_prompt_tokens": 6,
        "context_overflow": "crop",
        "n": 2,
        "best_of": 4,
        "echo": True,
        "logprobs": 1,
        "prompt_logprobs": 3,
        "use_beam_search": True,
        "length_penalty": -0.5,
        "early_stopping": "never",
        "allowed_token_ids": [5, 6],
        "bad_words": ["x y"],
    }
    body = stored_body(parse_request("/v1/completions", {"prompt": "a", **given}))
    params = engine_requests(replace(JOB, body=load_json(dump_json(body))))[0].params
    expected = given | {"stop": ("x",), "stop_token_ids": (4,), "logit_bias": ((5, -100), (7, 1.5))}
    expected |= {"bad_words": ("x y",), "allowed_token_ids": (5, 6)}
    expected["top_logprobs"] = expected.pop("logprobs")
    assert asdict(params) == expected
    assert all(value != getattr(SamplingParams(), name) for name, value in expected.items())


def test_parameters_that_were_not_given_are_the_engines_defaults() -> None:
    for endpoint, prompt in (("/v1/completions", {"prompt": "a"}), ("/v1/chat/completions", {"messages": USER})):
        body = stored_body(parse_request(endpoint, prompt | {"seed": 0, "max_tokens": 16}))
        assert engine_requests(replace(JOB, endpoint=endpoint, body=body))[0].params == SamplingParams()


def test_body_of_another_version_fails_its_row() -> None:
    with pytest.raises(RequestError):
        engine_requests(replace(JOB, body={"prompt": "a", "from_the_future": 1}))


def test_finished_output_becomes_a_completion() -> None:
    details = [TokenLogprobs("b", -0.5, (("b", 1, -0.5),), 0)]
    output = Output(str(JOB.id), [1, 2], (Completion([3], [-0.5], "b", "length", details),))
    outcome = outcome_of(JOB, [output], fingerprint="f")
    (completion,) = outcome.completions
    assert (outcome.status, outcome.attempt, completion.prompt_tokens, completion.output_tokens) == (
        Status.COMPLETED,
        3,
        2,
        1,
    )
    assert completion.details == {"tokens": [{"token": "b", "logprob": -0.5, "offset": 0, "top": (("b", 1, -0.5),)}]}
    assert (completion.seed, completion.fingerprint, completion.prompt_token_ids) == (7, "f", None)


def test_timings_are_kept_with_the_first_answer() -> None:
    answers = (Completion([3], [-0.5], "b"), Completion([4], [-0.5], "c"))
    outcome = outcome_of(JOB, [Output("", [1], answers, timings=Timings(1.5, 20.0, 2.5))], fingerprint="f")
    timings = {"prefill_ms": 1.5, "decode_ms": 20.0, "ttft_ms": 2.5}
    assert [entry.details for entry in outcome.completions] == [{"timings": timings}, None]


def test_prompt_ids_are_kept_only_where_asked_for() -> None:
    job = replace(JOB, body={**JOB.body, "return_token_ids": True})
    outcome = outcome_of(job, [Output(str(JOB.id), [1, 2], (Completion([3], [-0.5], "b"),))], fingerprint="f")
    assert outcome.completions[0].prompt_token_ids == [1, 2]


def test_each_answer_becomes_a_completion_of_its_own() -> None:
    job = replace(JOB, body={**JOB.body, "return_token_ids": True})
    answers = (
        Completion([3], [-0.5], "b", "length"),
        Completion([], [], "", "stop"),
        Completion([4, 5], [-1, -2], "cd"),
    )

    outcome = outcome_of(job, [Output(str(JOB.id), [1, 2], answers)], fingerprint="f")

    assert [entry.choice_index for entry in outcome.completions] == [0, 1, 2]
    assert [(entry.text, entry.finish_reason) for entry in outcome.completions] == [
        ("b", "length"),
        ("", "stop"),
        ("cd", "stop"),
    ]
    assert [(entry.prompt_tokens, entry.output_tokens) for entry in outcome.completions] == [(2, 1), (2, 0), (2, 2)]
    assert [entry.prompt_token_ids for entry in outcome.completions] == [[1, 2], None, None]


def test_scores_of_the_prompt_are_stored_once() -> None:
    prompt = [TokenLogprobs("a", None, (), 0, 7), TokenLogprobs("b", -2.0, (("c", 9, -0.1),), 1, 8, 5)]
    answers = (Completion([3], [-0.5], "b"), Completion([4], [-1.5], "c"))

    outcome = outcome_of(JOB, [Output(str(JOB.id), [7, 8], answers, prompt)], fingerprint="f")

    first, second = outcome.completions
    assert first.details == {
        "prompt": [
            {"id": 7, "token": "a", "logprob": None, "rank": None, "top": ()},
            {"id": 8, "token": "b", "logprob": -2.0, "rank": 5, "top": (("c", 9, -0.1),)},
        ]
    }
    assert second.details is None


def test_echoed_tokens_are_kept_beside_the_logprobs_of_the_answer() -> None:
    details = [TokenLogprobs("a", None, (), 0), TokenLogprobs("b", -0.5, (), 1)]
    answer = Completion([3], [-0.5], "ab", "length", details)

    (completion,) = outcome_of(JOB, [Output(str(JOB.id), [1], (answer,))], fingerprint="f").completions

    assert completion.logprobs == [-0.5]
    assert completion.details is not None
    assert [(entry["token"], entry["logprob"]) for entry in completion.details["tokens"]] == [("a", None), ("b", -0.5)]


def test_failure_of_a_prompt_of_a_list_names_it() -> None:
    assert failed(JOB, "nonfinite_logits", "no").error == JobError("nonfinite_logits", "no")
    assert failed(JOB, "nonfinite_logits", "no", request_id="x").error == JobError("nonfinite_logits", "no")
    assert failed(JOB, "c", "no", request_id="x/3").error == JobError("c", "prompt 3: no")


@pytest.mark.parametrize("prompts", [["a", "b", "a"], [[1, 2], [3], [1, 2]]])
def test_each_prompt_of_a_list_is_asked_alone(prompts: list[Any]) -> None:
    job = replace(JOB, body={**JOB.body, "prompt": prompts})
    requests = engine_requests(job)
    assert [request.prompt for request in requests] == prompts
    for request in requests:
        [alone] = engine_requests(replace(JOB, body={**JOB.body, "prompt": request.prompt}))
        assert replace(request, id="") == replace(alone, id="")
    assert {job_key(request.id) for request in requests} == {str(JOB.id)}
    assert [prompt_index(request.id) for request in requests] == [0, 1, 2]
    assert (num_prompts(job), num_prompts(JOB), num_prompts(replace(JOB, body={"prompt": [1, 2]}))) == (3, 1, 1)


def test_answers_to_a_list_are_numbered_prompt_by_prompt() -> None:
    job = replace(JOB, body={**JOB.body, "prompt": ["a", "b"], "return_token_ids": True})
    scores = [TokenLogprobs("a", None, (), 0, 7)]
    first = Output("", [1, 2], (Completion([3], [-1], "b"), Completion([4], [-1], "c")), scores)
    second = Output("", [5], (Completion([6], [-1], "d"), Completion([7], [-1], "e")), fingerprint="other")

    outcome = outcome_of(job, [first, second], fingerprint="f")

    assert [(entry.choice_index, entry.text) for entry in outcome.completions] == list(enumerate("bcde"))
    assert [entry.prompt_tokens for entry in outcome.completions] == [2, 2, 1, 1]
    assert [entry.prompt_token_ids for entry in outcome.completions] == [[1, 2], None, [5], None]
    assert [entry.details is None for entry in outcome.completions] == [False, True, True, True]
    assert [entry.fingerprint for entry in outcome.completions] == ["f", "f", "other", "other"]
    assert (outcome.num_prompts, outcome.prompt_tokens) == (2, 3)


def test_chat_says_how_it_becomes_a_prompt() -> None:
    given = {"add_generation_prompt": False, "continue_final_message": True, "chat_template_kwargs": {"thinking": [1]}}
    body = stored_body(parse_request("/v1/chat/completions", {"messages": USER, **given}))
    [request] = engine_requests(replace(JOB, endpoint="/v1/chat/completions", body=load_json(dump_json(body))))
    assert request.chat == ChatOptions(False, True, {"thinking": [1]})
    [request] = engine_requests(JOB)
    assert request.chat == ChatOptions()


@pytest.mark.parametrize(
    "given",
    [
        {"continue_final_message": True},
        {"chat_template_kwargs": {"a b": 1}},
        {"chat_template_kwargs": {f"n{number}": 1 for number in range(33)}},
        {"allowed_token_ids": []},
        {"allowed_token_ids": [-1]},
        {"bad_words": [""]},
        {"bad_words": ["a"] * 129},
    ],
)
def test_what_no_model_takes_is_refused_by_the_schema(given: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as raised:
        parse_request("/v1/chat/completions", {"messages": USER, **given})
    assert raised.value.error_code == "invalid_value"
    assert (raised.value.param or "").startswith(next(iter(given)))
