"""What a client sees of single tokens: their text, logprob, alternatives and place in the text."""

from collections.abc import Iterable
from dataclasses import dataclass

from worker.engine.tokenizer import Tokenizer
from worker.engine.types import TokenLogprobs


@dataclass(frozen=True, slots=True)
class Scored:
    """A token and what the model thought of it."""

    token_id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()  # (id, logprob), likeliest first
    rank: int | None = None


def describe(
    tokens: Iterable[Scored], tokenizer: Tokenizer | None, *, skip_special_tokens: bool
) -> list[TokenLogprobs]:
    """Describe tokens whose text begins at offset 0."""
    stream = tokenizer and tokenizer.stream(skip_special_tokens=skip_special_tokens)
    details = []
    for scored in tokens:
        details.append(token_logprobs(scored, tokenizer, offset=len(stream.text) if stream else 0))
        if stream:
            stream.push(scored.token_id)
    return details


def token_logprobs(scored: Scored, tokenizer: Tokenizer | None, *, offset: int) -> TokenLogprobs:
    """Describe one token with `offset` characters before it."""
    return TokenLogprobs(
        token=_token_text(scored.token_id, tokenizer),
        logprob=scored.logprob,
        top=tuple((_token_text(other, tokenizer), other, logprob) for other, logprob in scored.top),
        text_offset=offset,
        token_id=scored.token_id,
        rank=scored.rank,
    )


def _token_text(token_id: int, tokenizer: Tokenizer | None) -> str:
    """Text of one token alone; half a character shows as U+FFFD. Without a tokenizer the id, as vLLM spells it."""
    return tokenizer.decode([token_id], skip_special_tokens=False) if tokenizer else f"token_id:{token_id}"
