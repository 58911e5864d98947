"""The parts of answers: choices, logprobs, usage, errors. What holds them: rendering.py and response_rendering.py."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from models.ids import public_id
from models.records import CompletionRecord, JobError, JobRecord
from models.status import Status

Json = dict[str, Any]

# What OpenAI calls a line that was not run to its end, by the status our row ended with.
UNFINISHED_CODES = {
    Status.CANCELLED: JobError("batch_cancelled", "The job was cancelled before it completed."),
    Status.EXPIRED: JobError("batch_expired", "The job's deadline passed before it completed."),
}


def job_public_id(job: JobRecord) -> str:
    """The id as its submitter got it."""
    return public_id("batch_req" if job.batch_id else job.endpoint, job.id)


def error_of(job: JobRecord) -> JobError:
    """Why a final job has no result."""
    unknown = JobError("internal_error", "The job ended without a result.")
    return job.error or UNFINISHED_CODES.get(job.status, unknown)


def error_entry(error: JobError) -> Json:
    """An error as an object."""
    return {"code": error.code, "message": error.message}


def usage(completions: Sequence[CompletionRecord], num_answers: int) -> Json | None:
    """Tokens in and out. The answers to one prompt share it, and it counts once."""
    if not completions:
        return None
    prompt = sum(entry.prompt_tokens for entry in completions[::num_answers])
    output = sum(entry.output_tokens for entry in completions)
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


def num_answers(request: Mapping[str, Any]) -> int:
    """How many answers each prompt of a stored request has."""
    return int(request.get("n", 1))


def text_choices(completions: Sequence[CompletionRecord], request: Mapping[str, Any]) -> list[Json]:
    """The choices of a text completion, n for each prompt in the order of the prompts."""
    wanted, each = request.get("logprobs"), num_answers(request)
    return [
        _choice(completion, {"text": completion.text}, None if wanted is None else text_logprobs(completion, wanted))
        | _token_ids(completion, request)
        | _about_prompt(completions[position - position % each], request)
        for position, completion in enumerate(completions)
    ]


def _about_prompt(first: CompletionRecord, request: Mapping[str, Any]) -> Json:
    """What each answer says of its prompt, stored with the first answer to it."""
    about = _prompt_ids(first, request)
    return about | {"prompt_logprobs": prompt_logprobs(first)} if "prompt_logprobs" in request else about


def chat_choices(completions: Sequence[CompletionRecord], request: Mapping[str, Any]) -> list[Json]:
    """The choices of a chat completion."""
    wanted, num_top, before = request.get("logprobs"), request.get("top_logprobs") or 0, echoed(request)
    return [
        _choice(
            completion,
            {"message": {"role": "assistant", "content": before + completion.text, "refusal": None}},
            chat_logprobs(completion, num_top) if wanted else None,
        )
        | _token_ids(completion, request)
        | _prompt_ids(completions[0], request)
        for completion in completions
    ]


def echoed(request: Mapping[str, Any]) -> str:
    """What `echo` puts before a chat's answer: the last message, where the assistant said it."""
    last = request["messages"][-1] if request.get("echo") else {}
    return str(last["content"]) if last.get("role") == "assistant" else ""


def _choice(completion: CompletionRecord, text: Json, logprobs: Json | None) -> Json:
    return {"index": completion.choice_index, **text, "logprobs": logprobs, "finish_reason": completion.finish_reason}


def _token_ids(completion: CompletionRecord, request: Mapping[str, Any]) -> Json:
    return {"token_ids": list(completion.token_ids)} if request.get("return_token_ids") else {}


def _prompt_ids(first: CompletionRecord, request: Mapping[str, Any]) -> Json:
    """The prompt's ids, stored with the first choice alone."""
    return {"prompt_token_ids": list(first.prompt_token_ids or ())} if request.get("return_token_ids") else {}


def text_logprobs(completion: CompletionRecord, num_top: int) -> Json:
    """Logprobs as text completions have them: parallel lists. Of equal token texts the likeliest stands."""
    tokens = details(completion)
    return {
        "tokens": [entry["token"] for entry in tokens],
        "token_logprobs": [entry["logprob"] for entry in tokens],
        "top_logprobs": [_top_by_text(entry) for entry in tokens] if num_top else None,
        "text_offset": [entry["offset"] for entry in tokens],
    }


def chat_logprobs(completion: CompletionRecord, num_top: int) -> Json:
    """Logprobs as chat completions have them: one object a token."""

    def token(text: str, logprob: float) -> Json:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    content = [
        token(entry["token"], entry["logprob"])
        | {"top_logprobs": [token(text, logprob) for text, _, logprob in entry["top"][:num_top]]}
        for entry in details(completion)
    ]
    return {"content": content, "refusal": None}


def _top_by_text(entry: Mapping[str, Any]) -> dict[str, float] | None:
    """The alternatives and the chosen token, likeliest first; None for a prompt's first token, which has neither."""
    if entry["logprob"] is None:
        return None
    top: dict[str, float] = {}
    for text, _, logprob in [*entry["top"], (entry["token"], None, entry["logprob"])]:
        top.setdefault(text, logprob)
    return top


def prompt_logprobs(first: CompletionRecord) -> list[Json | None]:
    """A prompt's scores as vLLM has them: by token id, the prompt's own token before the likeliest ones. Null for its
    first token, which nothing precedes. They are stored with the first choice alone."""
    scores: Sequence[Mapping[str, Any]] = (first.details or {}).get("prompt", ())
    return [None if entry["logprob"] is None else _by_token_id(entry) for entry in scores]


def _by_token_id(entry: Mapping[str, Any]) -> Json:
    own = (entry["token"], entry["id"], entry["logprob"], entry["rank"])
    likeliest = [(text, token_id, logprob, rank) for rank, (text, token_id, logprob) in enumerate(entry["top"], 1)]
    return {
        str(token_id): {"logprob": logprob, "rank": rank, "decoded_token": text}
        for text, token_id, logprob, rank in (own, *likeliest)
    }


def details(completion: CompletionRecord) -> Sequence[Mapping[str, Any]]:
    """Each token's text, logprob, offset and alternatives, kept where the request asked for logprobs. With echo the
    prompt's tokens come first."""
    tokens: Sequence[Mapping[str, Any]] = (completion.details or {}).get("tokens", ())
    return tokens


def seconds(moment: datetime | None) -> int | None:
    """A moment as OpenAI writes it: whole seconds since 1970."""
    return None if moment is None else int(moment.timestamp())
