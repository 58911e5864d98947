"""An engine that answers each prompt at once with itself. For dry runs and for measuring the queue alone."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.engine.types import Completion, Delta, Output, Request, RowError, TokenLogprobs

DEFAULT_ROWS = 1024  # nothing is computed, so only the queue's chunking counts
MAX_MODEL_LEN = 1 << 20


@dataclass(frozen=True, slots=True)
class NoopInfo:
    """As worker.engine's info."""

    rows: int
    name: str = "noop"
    dtype: str = "none"
    device: str = "none"
    max_model_len: int = MAX_MODEL_LEN
    fingerprint: str = "noop"
    fast_paths: dict[str, str] = field(default_factory=dict)


class NoopEngine:
    """Gives back the prompt's first `max_tokens` characters, one token each."""

    def __init__(self, *, rows: int | None = None) -> None:
        self.info = NoopInfo(rows or DEFAULT_ROWS)
        self._waiting: deque[Request] = deque()
        self._steps = self._row_steps = 0
        self._deltas: list[Delta] = []

    @property
    def num_live(self) -> int:
        """Rows in the next step."""
        return len(self._waiting)

    @property
    def num_free(self) -> int:
        """Slots left."""
        return self.info.rows - len(self._waiting)

    @property
    def num_wanted(self) -> int:
        """How many to add now."""
        return self.num_free

    @property
    def has_work(self) -> bool:
        """Whether step() would return anything."""
        return bool(self._waiting)

    def prepare(self, request: Request) -> Request:
        """Refuse an empty prompt, as the real engine does."""
        if not request.prompt and not request.messages:
            raise RowError("empty_prompt", "prompt must not be empty")
        return request

    def add(self, sequence: Request) -> None:
        """Queue it."""
        self._waiting.append(sequence)

    def step(self) -> list[Output]:
        """Finish everything that waits."""
        done, self._waiting = self._waiting, deque()
        self._steps += 1
        self._row_steps += len(done)
        outputs = [_answer(request) for request in done]
        for request, output in zip(done, outputs, strict=True):
            if request.stream:
                self._deltas += _pieces(request, output)
        return outputs

    def take_deltas(self) -> list[Delta]:
        """Take the answers of requests that stream, each in one piece."""
        deltas, self._deltas = self._deltas, []
        return deltas

    def cancel(self, request_id: str) -> bool:
        """Drop a waiting request."""
        kept = deque(request for request in self._waiting if request.id != request_id)
        found = len(kept) < len(self._waiting)
        self._waiting = kept
        return found

    def stats(self) -> dict[str, Any]:
        """Counters since the start."""
        return {"rows": self.info.rows, "live": self.num_live, "steps": self._steps, "row_steps": self._row_steps}


def _answer(request: Request) -> Output:
    params = request.params
    prompt = request.prompt if request.prompt is not None else [1]
    num = len(prompt) if params.max_tokens is None else min(len(prompt), params.max_tokens)
    shown = [*(prompt if params.echo else ()), *prompt[:num]]
    answer = Completion(
        token_ids=[ord(token) if isinstance(token, str) else token for token in prompt[:num]],
        logprobs=[0.0] * num,
        text="".join(token for token in shown if isinstance(token, str)),
        finish_reason="length",
        details=None if params.top_logprobs is None else _details(shown, begins_prompt=params.echo),
    )
    scores = None if params.prompt_logprobs is None else _details(prompt, begins_prompt=True)
    return Output(request.id, [0] * len(prompt), (answer,) * params.n, scores)


def _pieces(request: Request, output: Output) -> list[Delta]:
    """Each answer in one piece, an echoed prompt in another before it."""
    pieces = []
    for answer, completion in enumerate(output.completions):
        text, details, id = completion.text, completion.details, request.id
        if request.params.echo:
            num_chars = len(request.prompt) if isinstance(request.prompt, str) else 0
            num_tokens = len(output.prompt_token_ids) if details is not None else 0
            head, details = (None, None) if details is None else (details[:num_tokens], details[num_tokens:])
            pieces.append(Delta(id, answer, 0, text[:num_chars], 0, [], head))
            pieces.append(Delta(id, answer, num_chars, text[num_chars:], num_tokens, completion.token_ids, details))
        else:
            pieces.append(Delta(id, answer, 0, text, 0, completion.token_ids, details))
    return pieces


def _details(tokens: Sequence[str | int], *, begins_prompt: bool) -> list[TokenLogprobs]:
    """Every token is certain, but for the prompt's first, which nothing precedes."""
    return [
        TokenLogprobs(str(token), None if begins_prompt and index == 0 else 0.0, (), text_offset=index)
        for index, token in enumerate(tokens)
    ]
