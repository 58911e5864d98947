"""What an output says of its prompt: logprobs of the prompt's tokens, and its echo at the head of each answer."""

import math
from dataclasses import replace

from worker.engine.details import Scored, describe
from worker.engine.finish import nonfinite_logits
from worker.engine.sequence import PromptScores, Sequence
from worker.engine.tokenizer import Tokenizer
from worker.engine.types import Completion, Output, SamplingParams, TokenLogprobs


def with_prompt(output: Output, params: SamplingParams, first: Sequence, *, tokenizer: Tokenizer | None) -> Output:
    """Add to an output what its request asked to see of the prompt. Raises RowError where scores are no numbers.

    `first` is the request's first sequence: its prompt was scored for all.
    """
    details = None
    if params.prompt_logprobs is not None:
        details = _describe(first, params, num_top=params.prompt_logprobs, tokenizer=tokenizer)
    if not params.echo:
        return replace(output, prompt_details=details)
    text, head = echo_of(first, params, tokenizer=tokenizer)
    echoed = tuple(_echo(completion, text, head) for completion in output.completions)
    return replace(output, completions=echoed, prompt_details=details)


def echo_of(
    first: Sequence, params: SamplingParams, *, tokenizer: Tokenizer | None
) -> tuple[str, list[TokenLogprobs] | None]:
    """What an answer begins with where its prompt is echoed: text, and what is said of its tokens where that was asked
    for. Raises RowError where scores are no numbers."""
    text = ""
    if tokenizer is not None:
        text = tokenizer.decode(first.prompt_token_ids, skip_special_tokens=params.skip_special_tokens)
    head = None
    if params.top_logprobs is not None:
        head = _describe(first, params, num_top=params.top_logprobs, tokenizer=tokenizer)
    return text, head


def _echo(completion: Completion, text: str, head: list[TokenLogprobs] | None) -> Completion:
    """Begin an answer with the prompt's text, and with what is said of its tokens."""
    details = completion.details
    if head is not None and details is not None:
        details = head + [replace(detail, text_offset=len(text) + detail.text_offset) for detail in details]
    return replace(completion, text=text + completion.text, details=details)


def _describe(
    first: Sequence, params: SamplingParams, *, num_top: int, tokenizer: Tokenizer | None
) -> list[TokenLogprobs]:
    scores = first.prompt_scores or PromptScores()
    if not all(math.isfinite(logprob) for logprob in scores.logprobs):
        raise nonfinite_logits()
    ids = first.prompt_token_ids
    tops = [top[:num_top] for top in scores.top]
    tokens = [Scored(ids[0], None), *map(Scored, ids[1:], scores.logprobs, tops, scores.ranks)]
    return describe(tokens, tokenizer, skip_special_tokens=params.skip_special_tokens)
