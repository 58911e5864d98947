"""The fields of a generation request, their ranges, and the rules between them.

Names and ranges are OpenAI's; those beyond it are spelled as vLLM spells them.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from models.errors import RequestError
from models.prompts import MAX_TOKEN_ID, Messages, Prompt, TokenId

MAX_LOGPROBS = 20
MAX_ANSWERS = 128
MAX_STOPS = 4
MAX_STOP_CHARS = 256
MAX_SEED = 2**63 - 1
MAX_BIASES = 300
MAX_BIAS = 100
MAX_ALLOWED = 16384  # token ids that an answer may be limited to
MAX_BAD_WORDS = 128
MAX_LIFE_SECONDS = 30 * 24 * 3600
MAX_KEY_CHARS = 255

STOP_ERROR = f"stop must be one to {MAX_STOPS} non-empty strings of at most {MAX_STOP_CHARS} characters"
LOGIT_BIAS_ERROR = (
    f"logit_bias must map at most {MAX_BIASES} token ids, written as decimal strings,"
    f" to numbers from -{MAX_BIAS} to {MAX_BIAS}"
)
_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)  # one spelling an id: "7" and "07" would be two biases

Count = Annotated[int, Field(ge=0, lt=2**31)]
Answers = Annotated[int, Field(ge=1, le=MAX_ANSWERS)]
NumLogprobs = Annotated[int, Field(ge=0, le=MAX_LOGPROBS)]
AllowedIds = Annotated[list[TokenId], Field(min_length=1, max_length=MAX_ALLOWED, fail_fast=True)]
BadWord = Annotated[str, Field(min_length=1, max_length=64)]
TemplateName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]


class StreamOptions(BaseModel):
    """What a stream holds beside the text."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    include_usage: bool = False
    include_obfuscation: bool = False  # padding against listeners; taken and not needed


class GenerationRequest(BaseModel):
    """What every endpoint shares. Strict: "8", 8.5 and true are not integers; an unknown field is an error."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    model: Annotated[str, Field(max_length=255)] | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 1.0
    top_p: Probability = 1.0
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] = 0
    min_p: Probability = 0.0
    # Scores are multiplied and divided by it in float32: the bounds keep them finite.
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)] = 1.0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    logit_bias: dict[str, float] = {}
    allowed_token_ids: AllowedIds | None = None
    bad_words: Annotated[list[BadWord], Field(max_length=MAX_BAD_WORDS, fail_fast=True)] = []
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    stop: list[str] = []
    stop_token_ids: Annotated[list[TokenId], Field(max_length=8)] = []
    ignore_eos: bool = False
    min_tokens: Count = 0
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    add_special_tokens: bool = True
    truncate_prompt_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    context_overflow: Literal["error", "crop"] = "error"
    n: Answers = 1
    best_of: Answers | None = None
    use_beam_search: bool = False
    # Of a score divided by length ** length_penalty: beyond ten a long answer's divisor leaves float32.
    length_penalty: Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)] = 1.0
    early_stopping: bool | Literal["never"] = False
    prompt_logprobs: NumLogprobs | None = None
    return_token_ids: bool = False
    stream: bool = False
    background: bool = False
    on_timeout: Literal["error", "background"] = "error"
    store: bool | None = None
    priority: Annotated[int, Field(ge=0, le=9)] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    ttl: Annotated[int, Field(ge=1, le=MAX_LIFE_SECONDS)] | None = None
    deadline_at: int | float | str | None = None
    max_attempts: Annotated[int, Field(ge=1, le=1000)] | None = None
    idempotency_key: str | None = None
    metadata: dict[str, str] = {}
    user: Annotated[str, Field(max_length=255)] | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _stop_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("stop")
    @classmethod
    def _stop_is_short(cls, value: list[str]) -> list[str]:
        if len(value) > MAX_STOPS or any(not 0 < len(stop) <= MAX_STOP_CHARS for stop in value):
            raise ValueError(STOP_ERROR)
        return value

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _biases_are_few(cls, value: object) -> object:
        """Before pydantic looks at each entry: it would list a complaint for every one of a million."""
        if not isinstance(value, dict) or len(value) > MAX_BIASES or not all(map(_is_bias, value.items())):
            raise ValueError(LOGIT_BIAS_ERROR)
        return value

    @field_validator("metadata")
    @classmethod
    def _metadata_is_small(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) > 16 or any(len(key) > 64 or len(text) > 512 for key, text in value.items()):
            raise ValueError("metadata holds at most 16 pairs, keys of 64 and values of 512 characters")
        return value

    @field_validator("deadline_at")
    @classmethod
    def _deadline_is_ahead(cls, value: float | str | None) -> float | str | None:
        if value is not None:
            moment, now = read_moment(value), datetime.now(UTC)
            if not now < moment <= now + timedelta(seconds=MAX_LIFE_SECONDS):
                raise RequestError(
                    "invalid_deadline", "deadline_at must lie within the next 30 days", param="deadline_at"
                )
        return value


class CompletionRequest(GenerationRequest):
    """The body of POST /v1/completions."""

    prompt: Prompt
    stream_options: StreamOptions | None = None
    echo: bool = False
    logprobs: NumLogprobs | None = None


class ChatRequest(GenerationRequest):
    """The body of POST /v1/chat/completions."""

    messages: Messages
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: Annotated[dict[TemplateName, Any], Field(max_length=32)] = {}
    max_completion_tokens: Count | None = None
    echo: bool = False
    stream_options: StreamOptions | None = None
    logprobs: bool = False
    top_logprobs: NumLogprobs | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> "ChatRequest":
        if self.max_completion_tokens is not None:
            self.max_tokens = self.max_completion_tokens
        return self

    @model_validator(mode="after")
    def _one_end(self) -> "ChatRequest":
        if self.continue_final_message and self.add_generation_prompt:
            message = "continue_final_message needs add_generation_prompt to be false"
            raise RequestError("invalid_value", message, param="continue_final_message")
        return self


def read_moment(value: float | str) -> datetime:
    """A moment as seconds since 1970 or as RFC 3339 with its offset. Raises RequestError."""
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is not None:
                return moment.astimezone(UTC)
        else:
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    message = "deadline_at must be seconds since 1970, or a time as 2026-12-31T23:59:59Z"
    raise RequestError("invalid_deadline", message, param="deadline_at")


def _is_bias(entry: tuple[object, object]) -> bool:
    token_id, bias = entry
    if not isinstance(token_id, str) or not _TOKEN_ID.fullmatch(token_id) or int(token_id) > MAX_TOKEN_ID:
        return False
    return isinstance(bias, int | float) and not isinstance(bias, bool) and -MAX_BIAS <= bias <= MAX_BIAS
