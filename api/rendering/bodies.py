"""Stored jobs to what users read: OpenAI's bodies and its batch output lines.

The HTTP service and the command line render with it; it knows neither FastAPI nor where rows come from.
"""

from api.rendering.choices import (
    UNFINISHED_CODES,
    Json,
    chat_choices,
    chat_logprobs,
    error_entry,
    error_of,
    job_public_id,
    num_answers,
    prompt_logprobs,
    seconds,
    text_choices,
    text_logprobs,
    usage,
)
from api.rendering.responses import response_body
from models.faults import OUR_FAULTS
from models.ids import public_id
from models.records import JobRecord
from models.requests import CHAT, RESPONSES
from models.rules import TIERS

__all__ = [
    "CHAT",
    "Json",
    "background_body",
    "chat_logprobs",
    "endpoint_body",
    "error_entry",
    "error_line",
    "error_of",
    "job_public_id",
    "num_answers",
    "output_line",
    "prompt_logprobs",
    "seconds",
    "text_logprobs",
    "usage",
]


def endpoint_body(job: JobRecord) -> Json:
    """The body that the job's endpoint answers: with its choices once completed, without any before."""
    if job.endpoint == RESPONSES:
        return response_body(job)
    is_chat, request = job.endpoint == CHAT, job.body
    body: Json = {
        "id": public_id(job.endpoint, job.id),
        "object": "chat.completion" if is_chat else "text_completion",
        "created": seconds(job.created_at),
        "model": job.model,
        "choices": [],
        "usage": usage(job.completions, num_answers(request)),
    }
    if "service_tier" in request:
        body["service_tier"] = TIERS[request["service_tier"]]
    if not job.completions:
        return body
    first = job.completions[0]
    if is_chat and "prompt_logprobs" in request:  # where vLLM has it; a text completion has it in each choice
        body["prompt_logprobs"] = prompt_logprobs(first)
    choices = (chat_choices if is_chat else text_choices)(job.completions, request)
    return body | {"choices": choices, "system_fingerprint": first.fingerprint, "seed": first.seed}


def background_body(job: JobRecord) -> Json:
    """endpoint_body with the job's status, for a client that polls; a response has its own."""
    return endpoint_body(job) | ({} if job.endpoint == RESPONSES else {"status": job.status})


def output_line(job: JobRecord) -> Json:
    """A completed job as a line of a batch's output file."""
    response = {"status_code": 200, "request_id": f"req_{job.id.hex}", "body": endpoint_body(job)}
    return _line(job) | {"response": response, "error": None}


def error_line(job: JobRecord) -> Json:
    """A job that ended otherwise as a line of a batch's error file.

    One that failed has the response that it would have had by itself. What was not run to its end has none, and
    OpenAI's code, whatever our row says of it.
    """
    unfinished = UNFINISHED_CODES.get(job.status)
    if unfinished is not None:
        return _line(job) | {"response": None, "error": error_entry(unfinished)}
    error = error_of(job)
    status, kind = 400, "invalid_request_error"
    if error.code in OUR_FAULTS:
        status, kind = 500, "server_error"
    elif error.code == "model_not_found":
        status, kind = 404, "not_found_error"
    body = {"error": {"message": error.message, "type": kind, "param": None, "code": error.code}}
    response = {"status_code": status, "request_id": f"req_{job.id.hex}", "body": body}
    return _line(job) | {"response": response, "error": None}


def _line(job: JobRecord) -> Json:
    """What both kinds of line begin with. A line that came without a custom_id is named by its number, from 1."""
    line: Json = {"id": public_id("batch_req", job.id), "custom_id": job.custom_id}
    return line if job.custom_id is not None else line | {"line": job.line}
