"""What all resources share."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

UnixSeconds = Annotated[int, Field(description="Whole seconds since 1970, UTC.")]
Metadata = Annotated[dict[str, str], Field(description="Pairs as they were submitted.")]
JobStatus = Literal["queued", "in_progress", "completed", "failed", "cancelled", "expired"]
BatchStatus = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "cancelling", "cancelled", "expired"
]
Endpoint = Literal["/v1/completions", "/v1/chat/completions", "/v1/responses"]


class ErrorContent(BaseModel):
    """What went wrong."""

    message: str
    type: Annotated[str, Field(examples=["invalid_request_error"])]
    param: Annotated[str | None, Field(description="The field to change, as a dotted path.")]
    code: Annotated[str | None, Field(description="A stable word to act on.", examples=["context_length_exceeded"])]


class Error(BaseModel):
    """Every error's body."""

    error: ErrorContent


class JobError(BaseModel):
    """Why a job has no result."""

    code: str
    message: str


class Deleted(BaseModel):
    """What is gone."""

    id: str
    object: str
    deleted: Literal[True]


class Usage(BaseModel):
    """Tokens of a completion. A prompt counts once, however many answers it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Zeroes(BaseModel):
    """Details that OpenAI's usage has; nothing is counted apart here, so all are 0."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0


class TokenUsage(BaseModel):
    """Tokens of a response or a batch."""

    input_tokens: int
    input_tokens_details: Zeroes
    output_tokens: int
    output_tokens_details: Zeroes
    total_tokens: int
