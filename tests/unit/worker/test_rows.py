"""From a message to a delivery, from a claimed job to a request, from an output to an outcome."""

from dataclasses import replace
from uuid import uuid4

import pytest

from models.errors import RequestError
from models.ids import job_id_of_task
from models.records import ClaimedJob, JobError
from models.status import Status
from worker.engine.types import Completion, Output, RowError, TokenLogprobs
from worker.rows import engine_request, inline_delivery, listed_delivery, outcome_of

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
    request = engine_request(JOB)
    assert (request.id, request.prompt, request.params.seed, request.params.stop) == (str(JOB.id), "a", 7, ("x",))


def test_chat_job_carries_its_messages() -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "seed": 1, "logprobs": True, "top_logprobs": 2}
    request = engine_request(replace(JOB, endpoint="/v1/chat/completions", body=body))
    assert request.prompt is None
    assert request.messages == [{"role": "user", "content": "hi"}]
    assert (request.params.top_logprobs, request.params.max_tokens) == (2, None)


def test_body_of_another_version_fails_its_row() -> None:
    with pytest.raises(RequestError):
        engine_request(replace(JOB, body={"prompt": "a", "from_the_future": 1}))


def test_finished_output_becomes_a_completion() -> None:
    details = [TokenLogprobs("b", -0.5, (("b", 1, -0.5),), 0)]
    output = Output(str(JOB.id), [1, 2], (Completion([3], [-0.5], "b", "length", details),))
    outcome = outcome_of(JOB, output, fingerprint="f")
    (completion,) = outcome.completions
    assert (outcome.status, outcome.attempt, completion.prompt_tokens, completion.output_tokens) == (
        Status.COMPLETED,
        3,
        2,
        1,
    )
    assert completion.details == {"tokens": [{"token": "b", "logprob": -0.5, "offset": 0, "top": (("b", 1, -0.5),)}]}
    assert (completion.seed, completion.fingerprint, completion.prompt_token_ids) == (7, "f", None)


def test_prompt_ids_are_kept_only_where_asked_for() -> None:
    job = replace(JOB, body={**JOB.body, "return_token_ids": True})
    outcome = outcome_of(job, Output(str(JOB.id), [1, 2], (Completion([3], [-0.5], "b"),)), fingerprint="f")
    assert outcome.completions[0].prompt_token_ids == [1, 2]


def test_row_error_becomes_a_failed_outcome() -> None:
    outcome = outcome_of(JOB, Output(str(JOB.id), error=RowError("nonfinite_logits", "no")), fingerprint="f")
    assert (outcome.status, outcome.error) == (Status.FAILED, JobError("nonfinite_logits", "no"))
