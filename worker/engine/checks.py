"""What a request's parameters may be. Each refusal names the field and its limit.

The HTTP schema refuses most of this before; a notebook has no schema.
"""

from worker.engine.sampling import MAX_TOP_LOGPROBS
from worker.engine.types import RowError, SamplingParams

MAX_STOP_TOKEN_IDS = 8  # a request's own, beside the model's
MAX_LOGIT_BIASES = 1024  # as many as vLLM takes
MAX_BAD_WORDS = 128
MAX_WORD_CHARS = 64
_LARGEST = 1e30  # scores and what is added to them stay finite in float32
_MOST_TOKENS = 2**31 - 1
_MOST_ANSWERS = 1024

_INTEGERS: dict[str, tuple[int, int]] = {
    "max_tokens": (0, _MOST_TOKENS),
    "top_k": (-1, _MOST_TOKENS),
    "seed": (-(2**63), 2**63 - 1),
    "min_tokens": (0, _MOST_TOKENS),
    "truncate_prompt_tokens": (1, _MOST_TOKENS),
    "n": (1, _MOST_ANSWERS),
    "best_of": (1, _MOST_ANSWERS),
    "top_logprobs": (0, MAX_TOP_LOGPROBS),
    "prompt_logprobs": (0, MAX_TOP_LOGPROBS),
}
_OPTIONAL = ("max_tokens", "truncate_prompt_tokens", "best_of", "top_logprobs", "prompt_logprobs")
_NUMBERS: dict[str, tuple[float, float]] = {
    "temperature": (0, _LARGEST),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repetition_penalty": (1 / _LARGEST, _LARGEST),
    "frequency_penalty": (-_LARGEST, _LARGEST),
    "presence_penalty": (-_LARGEST, _LARGEST),
    "length_penalty": (-10, 10),  # beyond, a long answer's length to this power leaves float32
}
_CHOICES: dict[str, tuple[object, ...]] = {
    "early_stopping": (True, False, "never"),
    "context_overflow": ("error", "crop"),
}
_NOT_FOR_BEAMS = (
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
)
_DEFAULTS = SamplingParams()


def check_params(params: SamplingParams, *, vocab_size: int) -> None:
    """Raise RowError for the first parameter that is out of its range, or at odds with another."""
    _check_integers(params)
    _check_numbers(params)
    _check_tokens(params, vocab_size)
    if params.num_answers < params.n:
        raise _invalid(f"best_of ({params.best_of}) must be at least n ({params.n})")
    if params.max_tokens == 0 and not params.echo and params.prompt_logprobs is None:
        raise _invalid("max_tokens must be at least 1, or 0 with echo or prompt_logprobs")
    if params.use_beam_search:
        _check_beams(params)


def _check_integers(params: SamplingParams) -> None:
    for name, (low, high) in _INTEGERS.items():
        value = getattr(params, name)
        if value is None and name in _OPTIONAL:
            continue
        if type(value) is not int or not low <= value <= high:
            raise _invalid(f"{name} must be a whole number, from {low} to {high}")


def _check_numbers(params: SamplingParams) -> None:
    for name, (least, most) in _NUMBERS.items():
        if not _is_number(getattr(params, name), least, most):
            raise _invalid(f"{name} must be a number from {least:g} to {most:g}")
    for name, choices in _CHOICES.items():
        if getattr(params, name) not in choices:
            raise _invalid(f"{name} must be one of {', '.join(map(str, choices))}")


def _check_tokens(params: SamplingParams, vocab_size: int) -> None:
    if len(set(params.stop_token_ids)) > MAX_STOP_TOKEN_IDS:
        raise _invalid(f"stop_token_ids may hold at most {MAX_STOP_TOKEN_IDS} ids")
    _check_biases(params.logit_bias, vocab_size)
    if params.allowed_token_ids is not None:
        _check_allowed(params.allowed_token_ids, vocab_size)
    if len(params.bad_words) > MAX_BAD_WORDS or not all(0 < len(word) <= MAX_WORD_CHARS for word in params.bad_words):
        raise _invalid(f"bad_words may hold at most {MAX_BAD_WORDS} words, each of 1 to {MAX_WORD_CHARS} characters")


def _check_biases(biases: tuple[tuple[int, float], ...], vocab_size: int) -> None:
    if len(biases) > MAX_LOGIT_BIASES:
        raise _invalid_bias(f"may hold at most {MAX_LOGIT_BIASES} tokens")
    if len({token_id for token_id, _ in biases}) < len(biases):
        raise _invalid_bias("may name a token only once")
    for token_id, bias in biases:
        if type(token_id) is not int or not 0 <= token_id < vocab_size:
            raise _invalid_bias(f"must name token ids from 0 to {vocab_size - 1}, not {token_id}")
        if not _is_number(bias, -_LARGEST, _LARGEST):
            raise _invalid_bias(f"of token {token_id} must be a number from {-_LARGEST:g} to {_LARGEST:g}")


def _check_allowed(token_ids: tuple[int, ...], vocab_size: int) -> None:
    if not token_ids:
        raise _invalid("allowed_token_ids must hold at least one token id")
    for index, token_id in enumerate(token_ids):
        if type(token_id) is not int or not 0 <= token_id < vocab_size:
            raise _invalid(f"allowed_token_ids[{index}] must be a token id from 0 to {vocab_size - 1}")


def _check_beams(params: SamplingParams) -> None:
    """Beams rank by the model's own logprobs.

    temperature, top_k, top_p, min_p and seed mean nothing to them, as with transformers' do_sample=False, and are not
    refused: clients send them by default.
    """
    for name in _NOT_FOR_BEAMS:
        if getattr(params, name) != getattr(_DEFAULTS, name):
            raise RowError("unsupported_parameter", f"{name} is not supported with use_beam_search")
    if params.max_tokens == 0:
        raise _invalid("max_tokens must be at least 1 with use_beam_search")


def _is_number(value: object, least: float, most: float) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return least <= value <= most  # no infinity and no NaN is


def _invalid(message: str) -> RowError:
    return RowError("invalid_value", message)


def _invalid_bias(message: str) -> RowError:
    return RowError("invalid_logit_bias", f"logit_bias {message}")
