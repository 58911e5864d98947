"""From a sequence that ended to its answer: cut, detokenise, collect what the client asked to see."""

import math

from worker.engine.details import Scored, describe
from worker.engine.sequence import Sequence
from worker.engine.tokenizer import TextStream, Tokenizer
from worker.engine.types import Completion, RowError, TokenLogprobs


def finish(
    sequence: Sequence,
    token_ids: list[int],
    logprobs: list[float],
    *,
    tokenizer: Tokenizer | None,
    stream: TextStream | None = None,
) -> Completion:
    """Make the answer of a sequence that generated these tokens, its stop token included. Raises RowError.

    `stream` has the text of those that are kept, where it was read along: what was read cannot be taken back.
    """
    if not all(math.isfinite(logprob) for logprob in logprobs):
        raise nonfinite_logits()
    if sequence.stop_search is not None:
        sequence.stop_search.finish()
    elif stream is not None:
        stream.finish()
    num_tokens, reason = sequence.cut(token_ids)
    kept = token_ids[:num_tokens]
    return Completion(
        token_ids=kept,
        logprobs=logprobs[:num_tokens],
        text=_text(sequence, kept, tokenizer) if stream is None or sequence.stop_search else stream.text,
        finish_reason=reason,
        details=_details(sequence, kept, logprobs, tokenizer=tokenizer),
    )


def nonfinite_logits() -> RowError:
    """The error of a row whose scores are no numbers."""
    message = "the model's scores are not numbers; the checkpoint or the dtype cannot answer this prompt"
    return RowError("nonfinite_logits", message)


def _text(sequence: Sequence, token_ids: list[int], tokenizer: Tokenizer | None) -> str:
    if sequence.stop_search is not None:
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
    tops = sequence.top or [()] * len(token_ids)
    tokens = map(Scored, token_ids, logprobs, tops)
    return describe(tokens, tokenizer, skip_special_tokens=sequence.params.skip_special_tokens)
