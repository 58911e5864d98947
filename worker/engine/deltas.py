"""Pieces of an answer as it is decoded, for whoever reads along. Knows no rows and no queue.

A piece is given out once nothing can take it back: half a character waits until it is whole, and what may yet turn out
to be the beginning of a stop string waits until it cannot be any more. What is left when the answer ends comes with
the output alone.
"""

from dataclasses import dataclass, field
from itertools import takewhile

from worker.engine.details import Scored, token_logprobs
from worker.engine.echo import echo_of
from worker.engine.sequence import Sequence, StopSearch
from worker.engine.tokenizer import TextStream, Tokenizer
from worker.engine.types import Delta, TokenLogprobs


@dataclass(slots=True)
class _Held:
    """A token that was not given out yet."""

    offset: int  # characters of the answer before it
    token_id: int
    detail: TokenLogprobs | None


@dataclass(slots=True)
class DeltaMaker:
    """What of one answer was given out, and what is held. Reads the text of the stop search where there is one.

    An answer that begins anew has the same text, of which only what was not given out before is given out.
    """

    tokenizer: Tokenizer | None
    stream: TextStream | None  # None: without a tokenizer there are tokens only
    search: StopSearch | None
    num_chars: int = 0  # given out, the echoed prompt's among them
    num_tokens: int = 0  # given out, of the answer
    num_pushed: int = 0  # of the answer
    echoed_chars: int = 0
    echoed_tokens: int = 0  # those that were described
    is_echoed: bool = False
    _held: list[_Held] = field(default_factory=list)

    def echo(self, sequence: Sequence, first: Sequence) -> Delta:
        """Give out the prompt's text, which `first`, the request's first sequence, has scores of. Raises RowError."""
        text, details = echo_of(first, sequence.params, tokenizer=self.tokenizer)
        self.is_echoed, self.num_chars = True, len(text)
        self.echoed_chars, self.echoed_tokens = len(text), len(details or ())
        return Delta(sequence.request_id, sequence.answer, 0, text, 0, [], details)

    def push(self, sequence: Sequence, token_id: int, logprob: float) -> Delta | None:
        """Add a token that the stop search, where there is one, has seen and that ended nothing; give out what is
        certain now."""
        offset = len(self.stream.text) if self.stream else 0
        if self.search is not None:
            offset = self.search.offsets[-1]
        elif self.stream is not None:
            self.stream.push(token_id)
        self.num_pushed += 1
        if self.num_pushed > self.num_tokens:
            detail = self._describe(sequence, token_id, logprob, offset)
            self._held.append(_Held(offset, token_id, detail))
        return self._take(sequence)

    def _describe(self, sequence: Sequence, token_id: int, logprob: float, offset: int) -> TokenLogprobs | None:
        if sequence.params.top_logprobs is None:
            return None
        scored = Scored(token_id, logprob, sequence.top[-1] if sequence.top else ())
        return token_logprobs(scored, self.tokenizer, offset=self.echoed_chars + offset)

    def _take(self, sequence: Sequence) -> Delta | None:
        """Take what is certain off what is held."""
        text = self.stream.text if self.stream else ""
        certain = self._num_certain(text)
        start = self.num_chars - self.echoed_chars
        may_be_cut = self.search is not None and not self.search.include_stop
        ready = [*takewhile(lambda held: held.offset < certain or not may_be_cut, self._held)]
        if certain <= start and not (ready and (ready[0].detail or self.stream is None)):
            return None
        delta = Delta(
            sequence.request_id,
            sequence.answer,
            self.num_chars,
            text[start:certain],
            self.echoed_tokens + self.num_tokens,
            [held.token_id for held in ready],
            None if sequence.params.top_logprobs is None else [held.detail for held in ready if held.detail],
        )
        self.num_chars = max(self.num_chars, self.echoed_chars + certain)
        self.num_tokens += len(ready)
        del self._held[: len(ready)]
        return delta

    def _num_certain(self, text: str) -> int:
        """How many characters no stop string that is still to come can cut off."""
        if self.search is None or self.search.include_stop:
            return len(text)
        return len(text) - max(_overlap(text, stop) for stop in self.search.stops)


def follow(sequence: Sequence, tokenizer: Tokenizer | None, *, past: DeltaMaker | None = None) -> DeltaMaker:
    """Begin to give out a sequence that has generated nothing; `past` is what was given out of it before."""
    search = sequence.stop_search
    stream = search.stream if search else None
    if search is None and tokenizer is not None:
        stream = tokenizer.stream(skip_special_tokens=sequence.params.skip_special_tokens)
    maker = DeltaMaker(tokenizer, stream, search)
    if past is not None:
        maker.num_chars, maker.num_tokens = past.num_chars, past.num_tokens
        maker.echoed_chars, maker.echoed_tokens = past.echoed_chars, past.echoed_tokens
        maker.is_echoed = past.is_echoed
    return maker


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of a text that a stop string begins with, short of the whole of it."""
    lengths = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)
