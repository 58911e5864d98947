"""Chat messages to prompt tokens, by the model's own template. The template is Jinja, run in a sandbox."""

import json
from collections.abc import Mapping
from collections.abc import Sequence as Items
from pathlib import Path
from typing import NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from worker.engine.spec import read_json
from worker.engine.tokenizer import Tokenizer, split_special
from worker.engine.types import EngineError, RowError

_GUARD = "\N{WORD JOINER}"  # marks text that only looks like a special token until the template is rendered


class ChatTemplate:
    """A compiled chat template and the tokenizer it is written for."""

    def __init__(self, source: str, tokenizer: Tokenizer, names: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        # No clock: `strftime_now` stays undefined, so that a prompt's tokens do not depend on the day.
        environment.globals["raise_exception"] = _raise_exception
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise EngineError(f"the chat template is not valid Jinja: {error}") from error
        self.tokenizer = tokenizer
        self._names = dict(names)

    def encode(self, messages: Items[Mapping[str, str]]) -> list[int]:
        """Render messages as a prompt for the assistant's turn. Raises RowError for what the template refuses."""
        guarded = [self._guard(message) for message in messages]
        is_plain = all(new == dict(old) for new, old in zip(guarded, messages, strict=True))
        try:
            text = self._template.render(messages=guarded, add_generation_prompt=True, **self._names)
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise RowError("invalid_messages", f"the chat template refuses these messages: {error}") from error
        return self.tokenizer.encode_rendered(text) if is_plain else self._encode_guarded(text)

    def _guard(self, message: Mapping[str, str]) -> dict[str, str]:
        """Break up special tokens a user wrote, so that only the template's own are taken for special."""
        return {key: self._guard_text(value) for key, value in message.items()}

    def _guard_text(self, text: str) -> str:
        pieces = split_special(text, list(self.tokenizer.special_tokens))
        special = self.tokenizer.special_tokens
        return "".join(piece[:1] + _GUARD + piece[1:] if piece in special else piece for piece in pieces)

    def _encode_guarded(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in split_special(text, list(self.tokenizer.special_tokens)):
            index = self.tokenizer.special_tokens.get(piece)
            plain = self._unguard(piece)
            ids += [index] if index is not None else self.tokenizer.encode(plain, add_special_tokens=False)
        return ids

    def _unguard(self, text: str) -> str:
        for name in self.tokenizer.special_tokens:
            text = text.replace(name[:1] + _GUARD + name[1:], name)
        return text


def load_chat_template(folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
    """Load the folder's template (`chat_template.jinja`, or in tokenizer_config.json); None without one."""
    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else {}
    file = folder / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if file.is_file() else _default_of(config.get("chat_template"))
    if source is None:
        return None
    names = {name: _content(config.get(name)) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    return ChatTemplate(source, tokenizer, {name: text for name, text in names.items() if text is not None})


def _default_of(value: object) -> str | None:
    """`chat_template` is one template, or a list of named ones of which "default" counts."""
    if isinstance(value, list):
        return next((entry.get("template") for entry in value if entry.get("name") == "default"), None)
    return value if isinstance(value, str) else None


def _content(value: object) -> str | None:
    """A token's text, given bare or as an object with `content`."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
