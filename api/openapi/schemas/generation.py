"""What the generation endpoints answer with. A logprob is the natural log of the chosen token's probability under the
untempered softmax in float32."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from api.openapi.schemas.base import JobStatus, Metadata, TokenUsage, UnixSeconds, Usage

FinishReason = Literal["stop", "length"]
Tier = Literal["default", "flex", "priority"]
TokenIds = Annotated[list[int], Field(description="With return_token_ids.")]


class Scored(BaseModel):
    """What the model thought of a token of the prompt."""

    logprob: float
    rank: int | None
    decoded_token: str


PromptLogprobs = Annotated[
    list[dict[str, Scored] | None],
    Field(description="With prompt_logprobs: by token id. Null for the first token, which nothing precedes."),
]


class TextLogprobs(BaseModel):
    """Parallel lists, an entry a token. With echo the prompt's tokens come first, the very first with nulls."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class TextChoice(BaseModel):
    """One answer: index = the prompt's place in a list of prompts * n + which of its answers."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason
    token_ids: TokenIds = []
    prompt_token_ids: TokenIds = []
    prompt_logprobs: PromptLogprobs = []


class TokenLogprob(BaseModel):
    """A token as chats and responses list it."""

    token: str
    logprob: float | None
    bytes: list[int]


class TopLogprobs(TokenLogprob):
    """A token and the likeliest in its place."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(BaseModel):
    """An object a token."""

    content: list[TopLogprobs]
    refusal: None


class ChatMessage(BaseModel):
    """What the assistant said."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    token_ids: TokenIds = []
    prompt_token_ids: TokenIds = []


class _Completion(BaseModel):
    """What both kinds share. Until the job is completed there are no choices, no usage, no fingerprint."""

    id: str
    created: UnixSeconds
    model: str
    usage: Usage | None
    status: JobStatus = "completed"
    service_tier: Tier = "default"
    system_fingerprint: Annotated[str | None, Field(description="Of weights, dtype and version.")] = None
    seed: Annotated[int | None, Field(description="The one given, or the one drawn.")] = None
    metadata: Metadata = {}
    error: dict[str, Any] | None = None


class Completion(_Completion):
    """A text completion."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class ChatCompletion(_Completion):
    """A chat completion."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    prompt_logprobs: PromptLogprobs = []


class OutputText(BaseModel):
    """Text that was generated."""

    type: Literal["output_text"]
    text: str
    annotations: list[dict[str, Any]]
    logprobs: list[TopLogprobs]


class OutputMessage(BaseModel):
    """The one item of a response's output."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Literal["completed", "incomplete"]
    content: list[OutputText]


class IncompleteDetails(BaseModel):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class ResponseError(BaseModel):
    """Why a response failed: one of OpenAI's codes, and our own in the message."""

    code: Literal["invalid_prompt", "server_error"]
    message: str


class Response(BaseModel):
    """A response."""

    id: str
    object: Literal["response"]
    created_at: UnixSeconds
    completed_at: UnixSeconds | None
    model: str
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    incomplete_details: IncompleteDetails | None
    error: ResponseError | None
    output: list[OutputMessage]
    usage: TokenUsage | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: Metadata
    parallel_tool_calls: bool
    previous_response_id: None
    service_tier: Tier
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: Literal["none"]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    user: str | None
    seed: int | None
    background: bool = False
