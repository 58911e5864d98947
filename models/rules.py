"""The rules between the fields of a request, and what several of its fields come to together."""

from datetime import datetime, timedelta
from typing import Final

from models.errors import RequestError
from models.generation import ChatRequest, CompletionRequest, GenerationRequest, read_moment
from models.prompts import MAX_PROMPTS
from models.response_request import ResponseRequest

AnyRequest = CompletionRequest | ChatRequest | ResponseRequest

# OpenAI's names for how urgent a request is: the tier that each is served in, and what priority that is. The default
# tier has the usual one.
TIERS: Final = {
    "auto": "default",
    "default": "default",
    "scale": "default",
    "flex": "flex",
    "priority": "priority",
    "fast": "priority",
}
_TIER_PRIORITIES: Final = {"flex": 2, "priority": 8}


def check_together(request: AnyRequest) -> None:
    """Check the rules between fields. Raises RequestError, which names the field to change."""
    if request.max_tokens == 0:
        _check_scoring(request)
    if request.best_of is not None and request.best_of < request.n:
        raise RequestError("invalid_value", "best_of must be at least n", param="best_of")
    if request.ttl is not None and request.deadline_at is not None:
        raise RequestError("invalid_deadline", "deadline_at and ttl exclude each other", param="deadline_at")
    if not request.use_beam_search:
        for name in ("length_penalty", "early_stopping"):
            if getattr(request, name) != GenerationRequest.model_fields[name].default:
                raise RequestError("invalid_value", f"{name} needs use_beam_search", param=name)
    _check_stream(request)
    _check_prompts(request)


def asked_priority(request: AnyRequest) -> int | None:
    """The priority that a request asks for, by number or by tier; None: the usual one."""
    if request.priority is not None:
        return request.priority
    return _TIER_PRIORITIES.get(TIERS[request.service_tier or "default"])


def deadline_of(request: AnyRequest, now: datetime) -> datetime | None:
    """When a request accepted now expires."""
    if request.deadline_at is not None:
        return read_moment(request.deadline_at)
    return None if request.ttl is None else now + timedelta(seconds=request.ttl)


def _check_scoring(request: AnyRequest) -> None:
    """Without a token to decode, something of the prompt must be asked for."""
    if request.use_beam_search:
        raise RequestError("invalid_value", "max_tokens must be at least 1 with use_beam_search", param="max_tokens")
    echoes = isinstance(request, CompletionRequest) and request.echo
    if not echoes and request.prompt_logprobs is None:
        wanted = "echo or prompt_logprobs" if isinstance(request, CompletionRequest) else "prompt_logprobs"
        raise RequestError("invalid_value", f"max_tokens must be at least 1 without {wanted}", param="max_tokens")


def _check_stream(request: AnyRequest) -> None:
    """Only what is final when it is decoded can be streamed."""
    if not request.stream:
        if request.stream_options is not None:
            raise RequestError("invalid_value", "stream_options needs stream", param="stream_options")
        return
    if request.use_beam_search or request.best_of not in (None, request.n):
        name = "use_beam_search" if request.use_beam_search else "best_of"
        raise RequestError("invalid_value", f"{name} cannot be streamed: the best is known at the end", param=name)


def _check_prompts(request: AnyRequest) -> None:
    """A list of prompts, each with its answers, is one job of bounded size."""
    if not isinstance(request, CompletionRequest):
        return
    prompts = request.prompt
    if isinstance(prompts, list) and isinstance(prompts[0], str | list):
        num_answers = max(request.n, request.best_of or 0)
        if len(prompts) * num_answers > MAX_PROMPTS:
            message = f"prompt may hold at most {MAX_PROMPTS // num_answers} prompts with {num_answers} answers each"
            raise RequestError("invalid_value", message, param="prompt")
