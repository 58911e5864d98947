"""Between the words of the queue, the tables and the engine: a message to a delivery, a claimed job to a request,
an output to an outcome."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from models.errors import RequestError
from models.ids import job_id_of_task
from models.messages import MAX_CHUNK, redis_priority
from models.records import ClaimedJob, CompletionRecord, JobError, NewJob, Outcome
from models.requests import (
    DEFAULT_PRIORITY,
    ENDPOINTS,
    num_top_logprobs,
    parse_request,
    read_stored,
    stored_body,
)
from models.status import Status
from worker.deliveries import Delivery
from worker.engine.types import Output, Request, SamplingParams


def engine_request(job: ClaimedJob) -> Request:
    """What the engine is asked for. Raises RequestError where the body is another version's."""
    values = read_stored(job.endpoint, job.body)
    params = SamplingParams(
        max_tokens=values["max_tokens"],
        temperature=values["temperature"],
        top_k=values["top_k"],
        top_p=values["top_p"],
        min_p=values["min_p"],
        seed=values["seed"] or 0,
        stop=tuple(values["stop"]),
        stop_token_ids=tuple(values["stop_token_ids"]),
        ignore_eos=values["ignore_eos"],
        min_tokens=values["min_tokens"],
        include_stop_str_in_output=values["include_stop_str_in_output"],
        skip_special_tokens=values["skip_special_tokens"],
        add_special_tokens=values["add_special_tokens"],
        top_logprobs=num_top_logprobs(values),
    )
    return Request(str(job.id), prompt=values.get("prompt"), messages=values.get("messages"), params=params)


def outcome_of(job: ClaimedJob, output: Output, *, fingerprint: str) -> Outcome:
    """The row to be committed for a finished request."""
    if output.error is not None:
        return failed(job, output.error.code, output.error.message)
    completion = CompletionRecord(
        choice_index=0,
        text=output.text,
        token_ids=output.token_ids,
        logprobs=output.logprobs,
        prompt_token_ids=output.prompt_token_ids if job.body.get("return_token_ids") else None,
        details=_details(output),
        finish_reason=output.finish_reason,
        prompt_tokens=len(output.prompt_token_ids),
        output_tokens=len(output.token_ids),
        seed=job.body.get("seed", 0),
        fingerprint=fingerprint,
    )
    return Outcome(job.id, job.attempt, Status.COMPLETED, (completion,))


def failed(job: ClaimedJob, code: str, message: str) -> Outcome:
    """A row that failed for its own fault."""
    return Outcome(job.id, job.attempt, Status.FAILED, error=JobError(code, message))


def inline_delivery(task_id: str, args: Sequence[object], kwargs: Mapping[str, object], *, model: str) -> Delivery:
    """A `generate` message. Its sender cannot be refused any more, so a bad one is stored as a failed job."""
    job_id = job_id_of_task(task_id)
    body = dict(kwargs) | ({"prompt": args[0]} if args else {})
    endpoint = ENDPOINTS[1 if "messages" in body else 0]
    job = NewJob(job_id, model, endpoint, {})
    try:
        request = parse_request(endpoint, body)
        if request.model not in (None, model):
            raise RequestError("model_not_found", "the task names another model than this queue's", param="model")
    except RequestError as error:
        return Delivery([job_id], replace(job, error=JobError(error.error_code, error.message)))
    priority = DEFAULT_PRIORITY if request.priority is None else request.priority
    deadline = datetime.now(UTC) + timedelta(seconds=request.ttl) if request.ttl else None
    job = replace(job, body=stored_body(request), priority=priority, deadline=deadline)
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


def _details(output: Output) -> dict[str, Any] | None:
    """Token texts and alternatives, when the client asked for logprobs."""
    if output.details is None:
        return None
    return {
        "tokens": [
            {"token": entry.token, "logprob": entry.logprob, "offset": entry.text_offset, "top": entry.top}
            for entry in output.details
        ]
    }
