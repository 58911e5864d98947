"""From a request to a sequence: tokenise, check against the model, refuse with a named error. Holds no row state."""

from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass

from worker.engine.chat import ChatTemplate
from worker.engine.checks import check_params
from worker.engine.sequence import Sequence, StopSearch
from worker.engine.tokenizer import Tokenizer
from worker.engine.types import ChatOptions, Request, RowError, SamplingParams


@dataclass(frozen=True, slots=True)
class Preparer:
    """What of a model a request is checked against. Immutable, so any thread may use it."""

    vocab_size: int
    max_model_len: int
    eos_token_ids: tuple[int, ...]
    tokenizer: Tokenizer | None
    chat_template: ChatTemplate | None

    def prepare(self, request: Request) -> Sequence:
        """Tokenise and check. Raises RowError; the same request fails the same way again."""
        params = request.params
        check_params(params, vocab_size=self.vocab_size)
        token_ids = self._encode(request)
        if not token_ids:
            raise RowError("empty_prompt", "the prompt holds no tokens")
        if max(token_ids) >= self.vocab_size:  # tokenizers may know more tokens than the model
            raise RowError("invalid_prompt", f"the prompt's text holds a token beyond the model's {self.vocab_size}")
        stop_token_ids = self._stop_token_ids(params)
        _check_choice(params, stop_token_ids)
        if params.truncate_prompt_tokens is not None:
            token_ids = token_ids[-params.truncate_prompt_tokens :]
        return Sequence(
            request_id=request.id,
            prompt_token_ids=token_ids,
            params=params,
            max_new_tokens=self._max_new_tokens(len(token_ids), params),
            stop_token_ids=stop_token_ids,
            bad_words=self._bad_words(params),
            stop_search=self._stop_search(params),
            seed=params.seed,
            context_length=self.max_model_len if params.context_overflow == "crop" else None,
            owner=request.owner,
            num_prompt_top=_num_prompt_top(params),
        )

    def _encode(self, request: Request) -> list[int]:
        if (request.prompt is None) == (request.messages is None):
            raise RowError("invalid_value", "a request needs exactly one of prompt and messages")
        if request.messages is not None:
            return self._encode_messages(request.messages, request.chat)
        if not isinstance(request.prompt, str):
            return self._check_ids(request.prompt or ())
        if self.tokenizer is None:
            raise RowError("unsupported_parameter", "this model has no tokenizer: send the prompt as token ids")
        _check_unicode(request.prompt, "the prompt")
        return self.tokenizer.encode(request.prompt, add_special_tokens=request.params.add_special_tokens)

    def _encode_messages(self, messages: Items[Mapping[str, str]], options: ChatOptions) -> list[int]:
        if self.chat_template is None:
            raise RowError(
                "unsupported_parameter", "this model has no chat template: send a prompt instead of messages"
            )
        if not messages or not all(_is_message(message) for message in messages):
            raise RowError("invalid_messages", "messages must be objects whose role and content are strings")
        for index, message in enumerate(messages):
            _check_unicode("".join(message.values()), f"messages[{index}]")
        return self.chat_template.encode(messages, options)

    def _check_ids(self, ids: Items[int]) -> list[int]:
        for index, token_id in enumerate(ids):
            if type(token_id) is not int or not 0 <= token_id < self.vocab_size:
                limit = self.vocab_size - 1
                raise RowError("invalid_token_id", f"prompt[{index}] must be a token id from 0 to {limit}")
        return list(ids)

    def _max_new_tokens(self, num_prompt_tokens: int, params: SamplingParams) -> int:
        left = self.max_model_len - num_prompt_tokens
        wanted = max(left, 1) if params.max_tokens is None else params.max_tokens
        if params.context_overflow == "crop":
            self._check_crop(num_prompt_tokens, params)
        elif wanted > left:
            limit = "not set" if params.max_tokens is None else str(params.max_tokens)
            raise RowError(
                "context_length_exceeded",
                f"the prompt's {num_prompt_tokens} tokens and max_tokens ({limit}) exceed"
                f" the context length of {self.max_model_len} tokens",
            )
        return wanted

    def _check_crop(self, num_prompt_tokens: int, params: SamplingParams) -> None:
        """A prompt may be longer than the context, but then it has no end to run to, and not all of it is scored."""
        if params.max_tokens is None and num_prompt_tokens >= self.max_model_len:
            raise RowError("invalid_value", "max_tokens must be set where context_overflow 'crop' cuts the prompt")
        if _num_prompt_top(params) is not None and num_prompt_tokens > self.max_model_len:
            raise RowError(
                "context_length_exceeded",
                f"the prompt's {num_prompt_tokens} tokens exceed the context length of {self.max_model_len} tokens,"
                " so their logprobs are not known",
            )

    def _stop_token_ids(self, params: SamplingParams) -> tuple[int, ...]:
        eos = () if params.ignore_eos else self.eos_token_ids
        return tuple(dict.fromkeys(index for index in (*eos, *params.stop_token_ids) if 0 <= index < self.vocab_size))

    def _bad_words(self, params: SamplingParams) -> tuple[tuple[int, ...], ...]:
        """Tokens of each word, as it begins a text and as it follows a space where that is a token of its own."""
        if params.bad_words and self.tokenizer is None:
            raise RowError("unsupported_parameter", "this model has no tokenizer: bad_words need one")
        words: list[tuple[int, ...]] = []
        for index, word in enumerate(params.bad_words):
            bare = word.lstrip()
            _check_unicode(bare, f"bad_words[{index}]")
            plain, spaced = self._word(bare), self._word(f" {bare}")
            if not plain:
                raise RowError("invalid_value", f"bad_words[{index}] holds no token")
            words.append(plain)
            if len(spaced) == len(plain) and spaced[0] != plain[0]:
                words.append(spaced)
        # Tokenizers may know more tokens than the model, which says none of those.
        return tuple(dict.fromkeys(word for word in words if max(word) < self.vocab_size))

    def _word(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False)) if self.tokenizer else ()

    def _stop_search(self, params: SamplingParams) -> StopSearch | None:
        stops = tuple(stop for stop in params.stop if stop)
        if not stops or params.max_tokens == 0:
            return None
        if self.tokenizer is None:
            raise RowError("unsupported_parameter", "this model has no tokenizer: stop strings need one")
        stream = self.tokenizer.stream(skip_special_tokens=params.skip_special_tokens)
        return StopSearch(stream, stops, include_stop=params.include_stop_str_in_output)


def all_eos_token_ids(configured: Items[int], tokenizer: Tokenizer | None) -> tuple[int, ...]:
    """Join the ends of an answer that a model's configuration names and those that its vocabulary defines."""
    return tuple(dict.fromkeys((*configured, *(tokenizer.stop_token_ids if tokenizer else ()))))


def _num_prompt_top(params: SamplingParams) -> int | None:
    """How many alternatives of each prompt token are wanted; None: not even its logprob."""
    echoed = params.top_logprobs if params.echo else None
    asked = [num for num in (params.prompt_logprobs, echoed) if num is not None]
    return max(asked, default=None)


def _check_choice(params: SamplingParams, stop_token_ids: Items[int]) -> None:
    """Refuse what would leave a row without a token to choose."""
    if params.min_tokens and params.allowed_token_ids and set(params.allowed_token_ids) <= set(stop_token_ids):
        raise RowError("invalid_value", "allowed_token_ids must hold more than the stop tokens min_tokens forbids")


def _check_unicode(text: str, name: str) -> None:
    """Refuse half a surrogate pair, which one tokenizer raises on and another silently replaces."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError("invalid_unicode", f"{name} is not valid Unicode") from error


def _is_message(message: object) -> bool:
    """Role and content must be there; templates read other keys as they please."""
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        return False
    return all(isinstance(key, str) and isinstance(value, str) for key, value in message.items())
