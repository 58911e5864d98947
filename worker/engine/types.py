"""What goes into the engine and what comes out. Plain data: no torch, no queue, no database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled"]


class EngineError(Exception):
    """A checkpoint, a device or a setting the engine cannot work with; the message says what to do."""


class RowError(Exception):
    """One request's own fault: its row fails, its neighbours never notice. Sending it again does not help."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one sequence is decoded; every row of a batch may differ."""

    max_tokens: int | None = 16  # None: to the end of the context
    temperature: float = 1.0  # 0: argmax, and the filters below are ignored
    top_k: int = 0  # 0 or -1: no limit
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    add_special_tokens: bool = True
    top_logprobs: int | None = None  # None: token texts and alternatives are not collected


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt: text, token ids, or the messages of a chat (exactly one of the two fields)."""

    id: str
    prompt: str | Sequence[int] | None = None
    messages: Sequence[Mapping[str, str]] | None = None
    params: SamplingParams = field(default_factory=SamplingParams)


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """What a client sees of one generated token, when it asked for logprobs."""

    token: str
    logprob: float
    top: tuple[tuple[str, int, float], ...]  # (text, id, logprob), likeliest first
    text_offset: int  # characters of the completion before this token


@dataclass(frozen=True, slots=True)
class Output:
    """A finished request. With `error` set nothing else but the ids means anything.

    `logprobs` are natural logs of the chosen tokens under the raw logits' softmax in float32, before temperature
    and filters. `token_ids` end before the stop token.
    """

    request_id: str
    prompt_token_ids: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason = "stop"
    details: list[TokenLogprobs] | None = None
    error: RowError | None = None
