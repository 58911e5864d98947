"""Chat messages to prompt tokens, by the model's own template. The template is Jinja, run in a sandbox."""

import json
import re
from collections.abc import Callable, Container, Mapping
from collections.abc import Sequence as Items
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from worker.engine.spec import read_json
from worker.engine.tokenizer import Tokenizer
from worker.engine.types import ChatOptions, EngineError, RowError

# A prompt's tokens must not depend on the day, or a retry differs. The date is the one that Llama 3.1's template falls
# back on where there is no clock.
_TODAY = date(2024, 7, 26)
MAX_KWARGS_DEPTH = 8
# What a template reads that a request has other fields for, or none.
_RESERVED = frozenset(
    {
        "messages",
        "tools",
        "documents",
        "add_generation_prompt",
        "continue_final_message",
        "chat_template",
        "raise_exception",
        "strftime_now",
    }
)
_USUAL = ChatOptions()


class ChatTemplate:
    """A compiled chat template and the tokenizer it is written for."""

    def __init__(self, source: str, tokenizer: Tokenizer, names: Mapping[str, str]) -> None:
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise EngineError(f"the chat template is not valid Jinja: {error}") from error
        self.tokenizer = tokenizer
        self._names = dict(names)
        # Of names that begin alike the longest counts, as in the tokenizer libraries.
        longest_first = sorted(tokenizer.special_tokens, key=len, reverse=True)
        self._special = "|".join(map(re.escape, longest_first)) or "(?!)"

    def encode(self, messages: Items[Mapping[str, str]], options: ChatOptions = _USUAL) -> list[int]:
        """Render messages as a prompt, usually for the assistant's turn. Raises RowError for what the template
        refuses."""
        check_options(options, reserved=self._names)
        given = [*(text for message in messages for text in message.values()), *_texts(options.template_kwargs)]
        guard, tag = _unused_characters("".join(given))
        guarded = [{key: self._guard(text, guard) for key, text in message.items()} for message in messages]
        if options.continue_final_message:
            guarded[-1]["content"] += f"{tag} "
        names = {
            name: _map_texts(value, lambda text: self._guard(text, guard))
            for name, value in options.template_kwargs.items()
        }
        try:
            text = self._template.render(
                messages=guarded,
                add_generation_prompt=options.add_generation_prompt,
                tools=None,
                documents=None,
                **names,
                **self._names,
            )
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise RowError("invalid_messages", f"the chat template refuses these messages: {error}") from error
        if options.continue_final_message:
            text = _cut_after(text, tag)
        return self.tokenizer.encode_pieces(self._split(text, guard))

    def _guard(self, text: str, guard: str) -> str:
        """Break up special tokens that a user wrote, overlapping ones too: only the template's own are special."""
        return re.sub(f"(?=(?:{self._special}))(.)", rf"\1{guard}", text, flags=re.DOTALL)

    def _split(self, text: str, guard: str) -> list[str | int]:
        """Cut rendered text into plain text, guards taken out, and ids of the template's special tokens."""
        parts = re.split(f"({self._special})(?!{guard})", text)  # a token of one character is followed by its guard
        special = self.tokenizer.special_tokens
        pieces = [special[part] if index % 2 else part.replace(guard, "") for index, part in enumerate(parts)]
        return [piece for piece in pieces if piece != ""]


def check_options(options: ChatOptions, *, reserved: Container[str]) -> None:
    """Raise RowError for options that contradict each other, and names that are not a request's to give."""
    if options.add_generation_prompt and options.continue_final_message:
        raise RowError("invalid_value", "continue_final_message needs add_generation_prompt to be false")
    for name in options.template_kwargs:
        if name in _RESERVED or name in reserved or not name.isidentifier():
            raise RowError("invalid_value", f"chat_template_kwargs may not hold {name[:64]!r}")
    if _depth(options.template_kwargs) > MAX_KWARGS_DEPTH:
        raise RowError("invalid_value", f"chat_template_kwargs may be nested at most {MAX_KWARGS_DEPTH} deep")
    for text in _texts(options.template_kwargs):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RowError("invalid_unicode", "chat_template_kwargs is not valid Unicode") from error


def _cut_after(text: str, tag: str) -> str:
    """Cut a rendered chat where its last message ends, which the tag and a space were put behind. A template that trims
    messages takes the space, and of the message what was trimmed. As `transformers` does."""
    before, found, behind = text.rpartition(tag)
    if not found:
        raise RowError("invalid_messages", "the chat template does not show the last message: nothing can be continued")
    return before if behind.startswith(" ") else before.rstrip()


def _depth(value: object) -> int:
    """How deep a JSON value is nested, a scalar being 0; no deeper than one more than allowed is looked."""
    depth, level = 0, [value]
    while depth <= MAX_KWARGS_DEPTH:
        level = [part for one in level for part in _parts(one)]
        if not level:
            break
        depth += 1
    return depth


def _parts(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else []


def _texts(value: object) -> list[str]:
    """Every string of a JSON value, names too."""
    if isinstance(value, str):
        return [value]
    names = [str(name) for name in value] if isinstance(value, Mapping) else []
    return names + [text for part in _parts(value) for text in _texts(part)]


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:  # noqa: ANN401 (any JSON value)
    """A JSON value with its strings changed, names too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(name): _map_texts(part, change) for name, part in value.items()}
    return [_map_texts(part, change) for part in value] if isinstance(value, list) else value


def load_chat_template(folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
    """Load the folder's template: of `chat_template.jinja`, of tokenizer_config.json, or else the tokenizer's own.

    Of several named ones (a list in the configuration, or files in `additional_chat_templates`) "default" counts: the
    others are for tools and documents, which requests do not carry. None where there is no template.
    """
    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else {}
    file = folder / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if file.is_file() else _default_of(config.get("chat_template"))
    source = source or tokenizer.chat_template
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


class _Generation(Extension):
    """`{% generation %}` marks what an assistant said, for training; in a prompt it is only its body."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 reads a set)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Give the tag's body in its place."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment that `transformers` renders chat templates in, but for the clock."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _TODAY.strftime
    return environment


def _unused_characters(text: str) -> tuple[str, str]:
    """The first two characters of Unicode's private use area that a text does not hold."""
    used = set(text)
    unused = (character for character in map(chr, range(0xE000, 0xF900)) if character not in used)
    try:
        return next(unused), next(unused)
    except StopIteration:
        raise RowError("invalid_messages", "the messages hold every private use character of Unicode") from None


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
