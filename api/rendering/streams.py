"""What a stream says of a job, as OpenAI's chunks: from states and pieces of text to server-sent events.

Knows neither FastAPI nor where pieces come from. Responses have events of their own (api/rendering/response_events.py).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from api.rendering.bodies import CHAT, Json, chat_logprobs, num_answers, prompt_logprobs, seconds, text_logprobs, usage
from api.rendering.choices import echoed
from api.rendering.progress import Item
from models.feed import Delta
from models.ids import public_id
from models.records import CompletionRecord, JobRecord
from models.status import Status

DONE = b"data: [DONE]\n\n"
# Beyond CR and LF, which JSON escapes, Python's splitlines and so some clients end lines at these: in UTF-8.
_LINE_BREAK = re.compile(b"\xc2\x85|\xe2\x80[\xa8\xa9]")


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event of a stream, as browsers and the official client read it."""

    data: Json
    name: str | None = None
    id: str | None = None

    def encode(self) -> bytes:
        """Write it, the JSON without anything that a client could take for the end of a line."""
        name = f"event: {self.name}\n" if self.name is not None else ""
        id = f"id: {self.id}\n" if self.id is not None else ""
        return f"{name}{id}data: ".encode() + _LINE_BREAK.sub(_escaped, orjson.dumps(self.data)) + b"\n\n"


class Chunks:
    """The chunks of a text or chat completion. A completion that did not complete has no chunk for that."""

    def __init__(self, job: JobRecord) -> None:
        self._request = job.body
        self._is_chat = job.endpoint == CHAT
        self._with_usage = bool((self._request.get("stream_options") or {}).get("include_usage"))
        self._head: Json = {
            "id": public_id(job.endpoint, job.id),
            "object": "chat.completion.chunk" if self._is_chat else "text_completion",
            "created": seconds(job.created_at),
            "model": job.model,
        }
        self._echo = echoed(self._request) if self._is_chat else ""
        self._begun: set[int] = set()  # choices of a chat whose role was told

    def render(self, item: Item) -> Iterator[bytes]:
        """The chunks that tell of a piece or of the end, and what ends the stream."""
        if isinstance(item, Delta):
            yield from self._begin(item.choice)
            yield self._chunk([self._piece(item)])
        elif item.status is Status.COMPLETED:
            yield from self._end(item)

    def _end(self, job: JobRecord) -> Iterator[bytes]:
        """A last chunk for each choice, then what all of them cost."""
        about = {"system_fingerprint": job.completions[0].fingerprint, "seed": job.completions[0].seed}
        for completion in job.completions:
            yield from self._begin(completion.choice_index)
            choice = self._choice(completion.choice_index, "", finish_reason=completion.finish_reason)
            yield self._chunk([choice | self._about_prompt(completion)], **about)
        if self._with_usage:
            yield self._chunk([], **about, usage=usage(job.completions, num_answers(job.body)))
        yield DONE

    def _begin(self, index: int) -> Iterator[bytes]:
        """Whose words a choice of a chat is, before its first one."""
        if self._is_chat and index not in self._begun:
            self._begun.add(index)
            choice = self._choice(index, "")
            yield self._chunk([choice | {"delta": {"role": "assistant", "content": self._echo}}])

    def _chunk(self, choices: list[Json], **more: Any) -> bytes:  # noqa: ANN401 (any JSON)
        """A chunk; where usage was asked for, null in all but the last, as OpenAI has it."""
        unknown = {"usage": None} if self._with_usage else {}
        return ServerEvent(self._head | {"choices": choices} | unknown | more).encode()

    def _piece(self, piece: Delta) -> Json:
        choice = self._choice(piece.choice, piece.text) | {"logprobs": self._logprobs(piece)}
        return choice | ({"token_ids": [*piece.token_ids]} if self._request.get("return_token_ids") else {})

    def _choice(self, index: int, text: str, *, finish_reason: str | None = None) -> Json:
        content: Json = {"delta": {"content": text} if text else {}} if self._is_chat else {"text": text}
        return {"index": index, **content, "logprobs": None, "finish_reason": finish_reason}

    def _logprobs(self, piece: Delta) -> Json | None:
        wanted = self._request.get("logprobs")
        if wanted is None or wanted is False:
            return None
        completion = _with_tokens(piece)
        if self._is_chat:
            return chat_logprobs(completion, self._request.get("top_logprobs") or 0)
        return text_logprobs(completion, wanted)

    def _about_prompt(self, completion: CompletionRecord) -> Json:
        """The prompt's ids and scores, which are known at the end and stand with its first choice."""
        about: Json = {}
        if self._request.get("return_token_ids") and completion.prompt_token_ids is not None:
            about["prompt_token_ids"] = list(completion.prompt_token_ids)
        if "prompt" in (completion.details or {}):
            about["prompt_logprobs"] = prompt_logprobs(completion)
        return about


def _escaped(match: re.Match[bytes]) -> bytes:
    return f"\\u{ord(match[0].decode()):04x}".encode()


def piece_logprobs(piece: Delta, num_top: int) -> list[Json]:
    """The tokens of a piece as chats and responses list them."""
    content: list[Json] = chat_logprobs(_with_tokens(piece), num_top)["content"]
    return content


def _with_tokens(piece: Delta) -> CompletionRecord:
    """A piece in the form that the rendering of whole answers reads."""
    return CompletionRecord(
        choice_index=piece.choice,
        text=piece.text,
        token_ids=piece.token_ids,
        finish_reason="",
        prompt_tokens=0,
        output_tokens=0,
        details={"tokens": piece.tokens},
    )
