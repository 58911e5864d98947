"""From a sequence that ended to its answer: cut, detokenise, collect what the client asked to see."""

import math

from worker.engine.sequence import Sequence
from worker.engine.tokenizer import Tokenizer
from worker.engine.types import Completion, RowError, TokenLogprobs


def finish(
    sequence: Sequence, token_ids: list[int], logprobs: list[float], *, tokenizer: Tokenizer | None
) -> Completion:
    """Make the answer of a sequence that generated these tokens, its stop token included. Raises RowError."""
    if not all(math.isfinite(logprob) for logprob in logprobs):
        raise nonfinite_logits()
    num_tokens, reason = sequence.cut(token_ids)
    kept = token_ids[:num_tokens]
    return Completion(
        token_ids=kept,
        logprobs=logprobs[:num_tokens],
        text=_text(sequence, kept, tokenizer),
        finish_reason=reason,
        details=_details(sequence, kept, logprobs, tokenizer=tokenizer),
    )


def nonfinite_logits() -> RowError:
    """The error of a row whose scores are no numbers."""
    message = "the model's scores are not numbers; the checkpoint or the dtype cannot answer this prompt"
    return RowError("nonfinite_logits", message)


def _text(sequence: Sequence, token_ids: list[int], tokenizer: Tokenizer | None) -> str:
    if sequence.stop_search is not None and sequence.stop_search.end is not None:
        return sequence.stop_search.text()
    if tokenizer is None:
        return ""
    return tokenizer.decode(token_ids, skip_special_tokens=sequence.params.skip_special_tokens)


def _details(
    sequence: Sequence, token_ids: list[int], logprobs: list[float], *, tokenizer: Tokenizer | None
) -> list[TokenLogprobs] | None:
    """Describe each kept token; None where the request did not ask."""
    if sequence.params.top_logprobs is None:
        return None
    stream = tokenizer and tokenizer.stream(skip_special_tokens=sequence.params.skip_special_tokens)
    details = []
    for index, token_id in enumerate(token_ids):
        top = sequence.top[index] if sequence.top else ()
        details.append(
            TokenLogprobs(
                token=_token_text(token_id, tokenizer),
                logprob=logprobs[index],
                top=tuple((_token_text(other, tokenizer), other, logprob) for other, logprob in top),
                text_offset=len(stream.text) if stream else 0,
                token_id=token_id,
            )
        )
        if stream:
            stream.push(token_id)
    return details


def _token_text(token_id: int, tokenizer: Tokenizer | None) -> str:
    """Text of one token alone; half a character shows as U+FFFD. Without a tokenizer the id, as vLLM spells it."""
    return tokenizer.decode([token_id], skip_special_tokens=False) if tokenizer else f"token_id:{token_id}"
