"""What goes into the engine and what comes out. Plain data: no torch, no queue, no database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

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
    """How one request is decoded; every row of a batch may differ. Names are OpenAI's, then vLLM's."""

    max_tokens: int | None = 16  # None: to the end of the context; 0: score the prompt only
    temperature: float = 1.0  # 0: argmax, and the filters below are ignored
    top_k: int = 0  # 0 or -1: no limit
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # on tokens of prompt and answer: score / r where positive, score * r where not
    frequency_penalty: float = 0.0  # taken off once for every time the answer holds the token
    presence_penalty: float = 0.0  # taken off once where the answer holds the token
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, what is added to its score)
    allowed_token_ids: tuple[int, ...] | None = None  # nothing else is chosen; None: everything
    bad_words: tuple[str, ...] = ()  # never said, neither alone nor after a space
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    add_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None  # keep only so many tokens from the prompt's end
    context_overflow: Literal["error", "crop"] = "error"  # crop: go on with the newest tokens of the context length
    n: int = 1  # answers returned
    best_of: int | None = None  # answers decoded, of which the likeliest n return; None: n. With beams, their number
    echo: bool = False  # the text, and the logprobs where asked for, begin with the prompt's
    top_logprobs: int | None = None  # None: token texts and alternatives are not collected
    prompt_logprobs: int | None = None  # alternatives per prompt token; None: the prompt is not scored
    use_beam_search: bool = False
    length_penalty: float = 1.0  # beams: score = sum of logprobs / length ** length_penalty
    early_stopping: bool | Literal["never"] = False  # beams: when to give up on better ones, as Hugging Face's

    @property
    def num_answers(self) -> int:
        """How many sequences are decoded for the request."""
        return self.n if self.best_of is None else self.best_of


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How a chat becomes a prompt."""

    add_generation_prompt: bool = True  # end with what begins an assistant's turn
    continue_final_message: bool = False  # leave the last message open, for the answer to go on
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)  # names that the template reads; JSON values


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt: text, token ids, or the messages of a chat (exactly one of the two fields)."""

    id: str
    prompt: str | Sequence[int] | None = None
    messages: Sequence[Mapping[str, str]] | None = None
    params: SamplingParams = field(default_factory=SamplingParams)
    owner: str = ""  # computed prompt beginnings are shared between requests of one owner only
    chat: ChatOptions = field(default_factory=ChatOptions)
    stream: bool = False  # give the answers out by pieces, too, as they are decoded


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """What a client sees of one token, when it asked for logprobs."""

    token: str
    logprob: float | None  # None: the prompt's first token, which nothing precedes
    top: tuple[tuple[str, int, float], ...]  # (text, id, logprob), likeliest first
    text_offset: int  # characters of the text before this token
    token_id: int = -1
    rank: int | None = None  # prompt tokens only: 1 is the likeliest


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer to a prompt.

    `logprobs` are natural logs of the chosen tokens under the raw logits' softmax in float32, before temperature,
    penalties and filters. `token_ids` end before the stop token and never hold the prompt's; `text` and `details`
    begin with the prompt's where `echo` asked for that.
    """

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason = "stop"
    details: list[TokenLogprobs] | None = None
    score: float | None = None  # beams: sum of logprobs / length ** length_penalty


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of one answer of a request that streams. The pieces are a beginning of what the output will say.

    With `echo` the first piece is the prompt, alone: its text and, where logprobs were asked for, what is said of its
    tokens; its `token_ids` are empty, as those of an answer never hold the prompt's.
    """

    request_id: str
    answer: int
    offset: int  # characters of the text before it
    text: str
    token_offset: int  # tokens before it; an echoed prompt's count where they are described
    token_ids: list[int]
    details: list[TokenLogprobs] | None


@dataclass(frozen=True, slots=True)
class Timings:
    """How long a request took, in milliseconds. An attempt that began anew inside the engine counts from then on."""

    prefill_ms: float  # from the step that took its first answer in, to that answer's first token
    decode_ms: float  # from there to the end of its last answer
    ttft_ms: float  # from when it was handed over to its first token: with the wait for a row


@dataclass(frozen=True, slots=True)
class Output:
    """A finished request: its n answers, best first where they were ranked. With `error` set nothing else but the ids
    means anything. The properties read the first answer."""

    request_id: str
    prompt_token_ids: list[int] = field(default_factory=list)
    completions: tuple[Completion, ...] = ()
    prompt_details: list[TokenLogprobs] | None = None  # one a prompt token, where prompt_logprobs asked for them
    error: RowError | None = None
    fingerprint: str | None = None  # of what computed it, where that was not the engine as its info describes it
    timings: Timings | None = field(default=None, compare=False)  # says nothing of the answer

    @property
    def _first(self) -> Completion:
        return self.completions[0] if self.completions else Completion()

    @property
    def token_ids(self) -> list[int]:
        """Tokens of the first answer."""
        return self._first.token_ids

    @property
    def logprobs(self) -> list[float]:
        """Logprobs of the first answer's tokens."""
        return self._first.logprobs

    @property
    def text(self) -> str:
        """Text of the first answer."""
        return self._first.text

    @property
    def finish_reason(self) -> FinishReason:
        """Why the first answer ended."""
        return self._first.finish_reason

    @property
    def details(self) -> list[TokenLogprobs] | None:
        """What was asked to be seen of the first answer's tokens."""
        return self._first.details
