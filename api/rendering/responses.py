"""A stored job of /v1/responses to OpenAI's Response object."""

from api.rendering.choices import Json, chat_logprobs, error_of, seconds, usage
from models.faults import OUR_FAULTS
from models.ids import public_id
from models.records import CompletionRecord, JobRecord
from models.requests import num_top_logprobs, read_stored
from models.rules import TIERS
from models.status import Status

# A response knows no expired: its error says what happened.
_STATUSES = {Status.EXPIRED: "failed"}
# The client's types know a few codes alone; of them these two fit. Ours stands beside them.
INVALID_PROMPT, SERVER_ERROR = "invalid_prompt", "server_error"


def response_body(job: JobRecord) -> Json:
    """The whole Response object, in whatever state the job is."""
    values = read_stored(job.endpoint, job.body)
    is_cut = bool(job.completions) and job.completions[0].finish_reason == "length"
    return {
        "id": public_id(job.endpoint, job.id),
        "object": "response",
        "created_at": seconds(job.created_at),
        "completed_at": seconds(job.finished_at) if job.status is Status.COMPLETED else None,
        "model": job.model,
        "status": "incomplete" if is_cut else _STATUSES.get(job.status, job.status),
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "error": response_error(job),
        "output": [output_message(job, completion) for completion in job.completions],
        "usage": response_usage(job),
        "instructions": values["instructions"],
        "max_output_tokens": values["max_output_tokens"],
        "metadata": values["metadata"],
        "parallel_tool_calls": values["parallel_tool_calls"],
        "previous_response_id": None,
        "service_tier": TIERS[values["service_tier"] or "default"],
        "store": values["store"] is not False,
        "temperature": values["temperature"],
        "text": {"format": {"type": "text"}},
        "tool_choice": "none",
        "tools": [],
        "top_logprobs": values["top_logprobs"] or 0,
        "top_p": values["top_p"],
        "truncation": values["truncation"],
        "user": values["user"],
        "seed": values["seed"],
    }


def output_message(job: JobRecord, completion: CompletionRecord) -> Json:
    """What the assistant said, as an item of the output; cut short it is incomplete, as the response is."""
    return {
        "id": message_id(job),
        "type": "message",
        "role": "assistant",
        "status": "incomplete" if completion.finish_reason == "length" else "completed",
        "content": [output_text(job, completion)],
    }


def message_id(job: JobRecord) -> str:
    """The id of a response's one message."""
    return f"msg_{job.id.hex}"


def output_text(job: JobRecord, completion: CompletionRecord) -> Json:
    """The text of a message, with its logprobs where they were asked for."""
    wanted = num_top_logprobs(read_stored(job.endpoint, job.body))
    logprobs = [] if wanted is None else chat_logprobs(completion, wanted)["content"]
    return {"type": "output_text", "text": completion.text, "annotations": [], "logprobs": logprobs}


def response_usage(job: JobRecord) -> Json | None:
    """Tokens in and out, by the names they have in a response."""
    spent = usage(job.completions, 1)
    if spent is None:
        return None
    return {
        "input_tokens": spent["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": spent["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": spent["total_tokens"],
    }


def response_error(job: JobRecord) -> Json | None:
    """Why there is no output: whose fault it was, and what it was in our own words."""
    if job.status not in (Status.FAILED, Status.EXPIRED):
        return None
    error = error_of(job)
    is_ours = job.status is Status.EXPIRED or error.code in OUR_FAULTS
    return {"code": SERVER_ERROR if is_ours else INVALID_PROMPT, "message": f"{error.code}: {error.message}"}
