"""Between the words of the queue, the tables and the engine: a message to a delivery, a claimed job to a request,
an output to an outcome."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, TypeGuard
from uuid import UUID

from models.errors import RequestError
from models.feed import Delta
from models.ids import job_id_of_task
from models.messages import MAX_CHUNK, redis_priority
from models.records import ClaimedJob, CompletionRecord, JobError, NewJob, Outcome
from models.requests import (
    COMPLETIONS,
    DEFAULT_PRIORITY,
    ENDPOINTS,
    chat_messages,
    num_top_logprobs,
    parse_request,
    read_stored,
    stored_body,
)
from models.rules import asked_priority, deadline_of
from models.status import Status
from worker.deliveries import Delivery
from worker.engine import types as engine
from worker.engine.types import ChatOptions, Output, Request, SamplingParams, Timings, TokenLogprobs

NO_LINKS = "link, chain and on_error are not followed: send the generations as the header of a chord, or poll them"

_NO_CHAT = ChatOptions()
# What a request's body and the engine spell alike and hold in the same type.
_SAME = (
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "ignore_eos",
    "min_tokens",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "add_special_tokens",
    "truncate_prompt_tokens",
    "context_overflow",
    "n",
    "best_of",
    "prompt_logprobs",
    "use_beam_search",
    "length_penalty",
    "early_stopping",
)


def engine_requests(job: ClaimedJob) -> list[Request]:
    """What the engine is asked for, a request a prompt. Raises RequestError where the body is another version's.

    Prompts of a list are all asked with the same parameters and seed, so that each is answered as if sent alone.
    """
    values = read_stored(job.endpoint, job.body)
    params = SamplingParams(
        **{name: values[name] for name in _SAME},
        seed=values["seed"] or 0,
        stop=tuple(values["stop"]),
        stop_token_ids=tuple(values["stop_token_ids"]),
        allowed_token_ids=None if values["allowed_token_ids"] is None else tuple(values["allowed_token_ids"]),
        bad_words=tuple(values["bad_words"]),
        logit_bias=tuple((int(token_id), bias) for token_id, bias in values["logit_bias"].items()),
        echo=job.endpoint == COMPLETIONS and values["echo"],  # a chat's is put before the answer as it is shown
        top_logprobs=num_top_logprobs(values),
    )
    prompt, messages = values.get("prompt"), chat_messages(job.endpoint, values)
    request = Request(
        str(job.id),
        prompt=prompt,
        messages=messages,
        params=params,
        owner=job.tenant,
        chat=_chat_options(values),
        stream=values["stream"],
    )
    if not _is_list(prompt):
        return [request]
    return [replace(request, id=f"{job.id}/{index}", prompt=one) for index, one in enumerate(prompt)]


def _chat_options(values: Mapping[str, Any]) -> ChatOptions:
    if "add_generation_prompt" not in values:  # a prompt, or the input of a response
        return _NO_CHAT
    return ChatOptions(
        add_generation_prompt=values["add_generation_prompt"],
        continue_final_message=values["continue_final_message"],
        template_kwargs=values["chat_template_kwargs"],
    )


def num_prompts(job: ClaimedJob) -> int:
    """How many requests to the engine a job is."""
    prompt = job.body.get("prompt")
    return len(prompt) if _is_list(prompt) else 1


def _is_list(prompt: object) -> TypeGuard[list[Any]]:
    """A list of ids is one prompt; one of texts or of lists is several."""
    return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], str | list)


def job_key(request_id: str) -> str:
    """The id of the job that a request to the engine belongs to."""
    return request_id.partition("/")[0]


def prompt_index(request_id: str) -> int | None:
    """Which prompt of its job's list a request is, from 0; None: its job has no list."""
    index = request_id.partition("/")[2]
    return int(index) if index else None


def outcome_of(job: ClaimedJob, outputs: Sequence[Output], *, fingerprint: str) -> Outcome:
    """What is to be committed for finished requests, one a prompt: a completion for each answer to each prompt."""
    completions = [
        _record(job, output, answer, first_choice=prompt * len(output.completions), fingerprint=fingerprint)
        for prompt, output in enumerate(outputs)
        for answer in range(len(output.completions))
    ]
    return Outcome(job.id, job.attempt, Status.COMPLETED, tuple(completions), num_prompts=len(outputs))


def _record(job: ClaimedJob, output: Output, index: int, *, first_choice: int, fingerprint: str) -> CompletionRecord:
    """One answer. The prompt's ids and scores, which all answers to it share, are kept with the first alone."""
    answer, is_first = output.completions[index], index == 0
    wants_ids = is_first and job.body.get("return_token_ids")
    return CompletionRecord(
        choice_index=first_choice + index,
        text=answer.text,
        token_ids=answer.token_ids,
        logprobs=answer.logprobs,
        prompt_token_ids=output.prompt_token_ids if wants_ids else None,
        details=_details(
            answer.details, output.prompt_details if is_first else None, output.timings if is_first else None
        ),
        finish_reason=answer.finish_reason,
        prompt_tokens=len(output.prompt_token_ids),
        output_tokens=len(answer.token_ids),
        seed=job.body.get("seed", 0),
        fingerprint=output.fingerprint or fingerprint,
    )


def feed_delta(job: ClaimedJob, delta: engine.Delta) -> Delta:
    """A piece of an answer as the job's feed shows it."""
    return Delta(
        choice=(prompt_index(delta.request_id) or 0) * int(job.body.get("n", 1)) + delta.answer,
        offset=delta.offset,
        text=delta.text,
        token_offset=delta.token_offset,
        tokens=_tokens(delta.details or ()),
        token_ids=delta.token_ids if job.body.get("return_token_ids") else (),
    )


def failed(job: ClaimedJob, code: str, message: str, *, request_id: str = "") -> Outcome:
    """A row that failed for its own fault, or for that of one prompt of its list, which the message then names."""
    index = prompt_index(request_id)
    message = message if index is None else f"prompt {index}: {message}"
    return Outcome(job.id, job.attempt, Status.FAILED, error=JobError(code, message))


def inline_delivery(
    task_id: str, args: Sequence[object], kwargs: Mapping[str, object], *, model: str, linked: bool = False
) -> Delivery:
    """A `generate` message. Its sender cannot be refused any more, so a bad one is stored as a failed job.

    `linked`: it asks for other tasks to be sent after it. A crash between the commit and the sending would lose them
    without a trace, so that is refused; a chord asks for the results by itself, until they are there.
    """
    job_id = job_id_of_task(task_id)
    body = dict(kwargs) | ({"prompt": args[0]} if args else {})
    endpoint = ENDPOINTS[1 if "messages" in body else 0]
    job = NewJob(job_id, model, endpoint, {})
    try:
        if linked:
            raise RequestError("unsupported_parameter", NO_LINKS, param="link")
        request = parse_request(endpoint, body)
        if request.model not in (None, model):
            raise RequestError("model_not_found", "the task names another model than this queue's", param="model")
    except RequestError as error:
        return Delivery([job_id], replace(job, error=JobError(error.error_code, error.message)))
    asked = asked_priority(request)
    priority = DEFAULT_PRIORITY if asked is None else asked
    deadline = deadline_of(request, datetime.now(UTC))
    job = replace(
        job,
        body=stored_body(request),
        priority=priority,
        deadline=deadline,
        max_attempts=request.max_attempts,
    )
    return Delivery([job_id], job, priority=priority)


def listed_delivery(args: Sequence[object], delivery_info: Mapping[str, object]) -> Delivery:
    """A `generate_chunk` message: ids, in the class of priority it was sent with."""
    ids = args[0] if args and isinstance(args[0], list) else []
    redis_class = delivery_info.get("priority")
    priority = redis_priority(redis_class) if isinstance(redis_class, int) else DEFAULT_PRIORITY
    return Delivery([job_id for text in ids[:MAX_CHUNK] if (job_id := _uuid(text))], priority=priority)


def _uuid(text: object) -> UUID | None:
    """Anyone who can write to the queue can send anything: what is no id is passed over."""
    try:
        return UUID(str(text))
    except ValueError:
        return None


def _details(
    tokens: Sequence[TokenLogprobs] | None, prompt: Sequence[TokenLogprobs] | None, timings: Timings | None
) -> dict[str, Any] | None:
    """What the client asked to see: with `logprobs` each token (with `echo` the prompt's first), with `prompt_logprobs`
    each token of the prompt; and how long it took."""
    details: dict[str, Any] = {} if timings is None else {"timings": asdict(timings)}
    if tokens is not None:
        details["tokens"] = _tokens(tokens)
    if prompt is not None:
        details["prompt"] = [
            {"id": entry.token_id, "token": entry.token, "logprob": entry.logprob, "rank": entry.rank, "top": entry.top}
            for entry in prompt
        ]
    return details or None


def _tokens(tokens: Sequence[TokenLogprobs]) -> list[dict[str, Any]]:
    return [
        {"token": entry.token, "logprob": entry.logprob, "offset": entry.text_offset, "top": entry.top}
        for entry in tokens
    ]
