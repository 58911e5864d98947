"""One prompt on its way through the engine, as the host sees it. No tensors."""

from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace

from worker.engine.tokenizer import TextStream
from worker.engine.types import FinishReason, SamplingParams


@dataclass(slots=True)
class StopSearch:
    """Looks for a row's stop strings in its growing text; a stop may cross token borders.

    Remembers the text's length before each token, so that tokens can be cut where the text is cut.
    """

    stream: TextStream
    stops: tuple[str, ...]
    include_stop: bool
    offsets: list[int] = field(default_factory=list)
    end: int | None = None  # characters of text kept, once a stop was found

    def push(self, token_id: int, *, may_stop: bool) -> bool:
        """Add a token; say whether a stop string is now complete."""
        before = len(self.stream.text)
        self.offsets.append(before)
        self.stream.push(token_id)
        if may_stop:
            self.end = self._find(before)
        return self.end is not None

    @property
    def num_seen(self) -> int:
        """Tokens added so far."""
        return len(self.offsets)

    def finish(self) -> None:
        """Show half a character at the end, which may complete a stop string. No token may follow."""
        if self.end is None:
            before = len(self.stream.text)
            self.stream.finish()
            self.end = self._find(before)

    def _find(self, before: int) -> int | None:
        """Find the earliest stop that ends in the text after `before`."""
        text = self.stream.text
        hits = [(text.find(stop, max(before - len(stop) + 1, 0)), stop) for stop in self.stops]
        starts = [(start, start + len(stop)) for start, stop in hits if start >= 0]
        if not starts:
            return None
        start, end = min(starts)
        return end if self.include_stop else start

    def num_tokens(self) -> int:
        """Count the tokens whose text begins before the cut."""
        return sum(offset < (self.end or 0) for offset in self.offsets)

    def text(self) -> str:
        """The text up to the cut, or all of it."""
        return self.stream.text[: self.end]


@dataclass(slots=True)
class PromptScores:
    """What the model thought of a prompt's tokens but the first, under the raw logits' softmax in float32."""

    logprobs: list[float] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)  # 1 is the likeliest: how many tokens score strictly higher, plus 1
    top: list[tuple[tuple[int, float], ...]] = field(default_factory=list)  # (id, logprob) a token, likeliest first


@dataclass(slots=True)
class Sequence:
    """A tokenised prompt and one answer to it: what it may generate, and how far it is."""

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    max_new_tokens: int
    stop_token_ids: tuple[int, ...]
    stop_search: StopSearch | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()  # as tokens
    answer: int = 0  # which of the request's answers
    num_beams: int = 0  # sequences of the request that run in lockstep, this one among them; 0: it runs for itself
    seed: int = 0
    context_length: int | None = None  # crop to the newest so many tokens; None: it never gets there
    owner: str = ""
    prefix_hashes: list[int] = field(default_factory=list)
    num_prompt_top: int | None = None  # alternatives a prompt token; None: the prompt is not scored
    prompt_scores: PromptScores | None = None  # of a request's first answer, once its prompt has run
    num_generated: int = 0  # tokens the device has chosen, or was told to choose
    token_ids: list[int] = field(default_factory=list)  # those of them that the host has seen
    logprobs: list[float] = field(default_factory=list)  # one a token
    top: list[tuple[tuple[int, float], ...]] = field(default_factory=list)  # (id, logprob) a token, likeliest first
    ended: bool = False  # as far as the host has seen
    streams: bool = False  # whether its request's group gives it out by pieces
    cancelled: bool = False

    @property
    def max_length(self) -> int:
        """Cached positions it may come to need; the last token is never fed back."""
        return self._cropped(len(self.prompt_token_ids) + max(self.max_new_tokens - 1, 0))

    @property
    def length(self) -> int:
        """Positions in the cache after the newest token's predecessor was fed."""
        return self._cropped(len(self.prompt_token_ids) + max(self.num_generated - 1, 0))

    @property
    def overflows(self) -> bool:
        """Whether the next step's tokens are more than the context, so that the newest are computed afresh."""
        total = len(self.prompt_token_ids) + self.num_generated
        return self.context_length is not None and total > self.context_length

    def _cropped(self, num_tokens: int) -> int:
        return num_tokens if self.context_length is None else min(num_tokens, self.context_length)

    @property
    def watched(self) -> bool:
        """Whether the host must look at each token of this row."""
        return self.stop_search is not None or bool(self.params.top_logprobs)

    def begun_anew(self) -> "Sequence":
        """A copy that has generated nothing. Its stop search, which remembers text, is the same."""
        return replace(self, num_generated=0, token_ids=[], logprobs=[], top=[], ended=False, cancelled=False)

    def note(self, token_id: int, logprob: float, alternatives: tuple[tuple[int, float], ...] | None) -> None:
        """Note a token that the host has seen."""
        self.token_ids.append(token_id)
        self.logprobs.append(logprob)
        if alternatives is not None:
            self.top.append(alternatives)

    def observe(self, token_id: int) -> bool:
        """Look at a new token; say whether a stop string ends the sequence here."""
        if self.stop_search is None or token_id in self.stop_token_ids:
            return False
        return self.stop_search.push(token_id, may_stop=self.stop_search.num_seen >= self.params.min_tokens - 1)

    def has_ended_with(self, token_id: int) -> bool:
        """Whether a new token, observed already, is no part of the answer or ended it by a stop string."""
        ended = self.stop_search is not None and self.stop_search.end is not None
        return ended or not self.max_new_tokens or token_id in self.stop_token_ids

    def cut(self, token_ids: Items[int]) -> tuple[int, FinishReason]:
        """Decide how many of the generated tokens are the answer, and why it ended."""
        if not self.max_new_tokens:  # every prompt's run ends in a token
            return 0, "length"
        if self.stop_search is not None and self.stop_search.end is not None:
            return self.stop_search.num_tokens(), "stop"
        if token_ids and token_ids[-1] in self.stop_token_ids:
            return len(token_ids) - 1, "stop"
        return len(token_ids), "length"
