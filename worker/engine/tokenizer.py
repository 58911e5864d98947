"""Text to token ids and back: Hugging Face's tokenizer.json, or tiktoken rank files. Knows no model.

Text in a prompt that looks like a special token is encoded as text: a user cannot end a turn from within it.
"""

import base64
import codecs
import re
from collections.abc import Sequence as Items
from pathlib import Path
from typing import Any, Protocol

import tiktoken
import tokenizers

from worker.engine.spec import read_json
from worker.engine.types import EngineError

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_MAX_HELD_TOKENS = 4  # no UTF-8 character is longer than four bytes, so older bytes were no character


class TextStream(Protocol):
    """Text of tokens as they come; half a character is held back until it is whole."""

    text: str

    def push(self, token_id: int) -> None:
        """Add one token to the text."""


class Tokenizer(Protocol):
    """What the engine needs of a tokenizer. Its methods may be called from several threads."""

    special_tokens: dict[str, int]

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Encode plain text."""

    def encode_rendered(self, text: str) -> list[int]:
        """Encode text in which special tokens stand for themselves."""

    def decode(self, token_ids: Items[int], *, skip_special_tokens: bool) -> str:
        """Turn ids into text; bytes that are no character become U+FFFD, ids without a text nothing."""

    def stream(self, *, skip_special_tokens: bool) -> TextStream:
        """Begin an incremental decode."""


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """Load the folder's tokenizer; None where it has no tokenizer files and prompts must be token ids."""
    if (folder / "tokenizer.json").is_file():
        return HuggingFaceTokenizer(folder / "tokenizer.json")
    config_path = folder / "tokenizer_config.json"
    config = read_json(config_path) if config_path.is_file() else {}
    if config.get("tokenizer_class") == "tiktoken":
        return load_tiktoken(folder / "tokenizer.model", config)
    if (folder / "tokenizer.model").is_file():
        raise EngineError(f"{folder}: a tokenizer.model without tokenizer_class tiktoken is not supported yet")
    return None


class HuggingFaceTokenizer:
    """A tokenizer.json, held twice: once taking special tokens for text, once for themselves."""

    def __init__(self, path: Path) -> None:
        try:
            self._plain = tokenizers.Tokenizer.from_file(str(path))
            self._special = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise EngineError(f"{path} is not a readable tokenizer: {error}") from error
        for tokenizer in (self._plain, self._special):
            tokenizer.no_truncation()
            tokenizer.no_padding()
        self._plain.encode_special_tokens = True
        added = self._plain.get_added_tokens_decoder()
        self.special_tokens = {token.content: index for index, token in added.items() if token.special}

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Encode plain text."""
        return list(self._plain.encode(text, add_special_tokens=add_special_tokens).ids)

    def encode_rendered(self, text: str) -> list[int]:
        """Encode text in which special tokens stand for themselves."""
        return list(self._special.encode(text, add_special_tokens=False).ids)

    def decode(self, token_ids: Items[int], *, skip_special_tokens: bool) -> str:
        """Turn ids into text."""
        return str(self._plain.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    def stream(self, *, skip_special_tokens: bool) -> TextStream:
        """Begin an incremental decode."""
        return WindowStream(self, skip_special_tokens=skip_special_tokens)


class WindowStream:
    """Incremental text of a tokenizer whose tokens decode differently in context.

    Decodes the last whole piece together with what came since, and takes what the decode grew by.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool) -> None:
        self.text = ""
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._context: list[int] = []  # tokens whose text is out, kept for what follows
        self._held: list[int] = []

    def push(self, token_id: int) -> None:
        """Add one token to the text."""
        self._held.append(token_id)
        known = self._decode(self._context)
        text = self._decode(self._context + self._held)
        if text.endswith(_REPLACEMENT) and len(self._held) < _MAX_HELD_TOKENS:
            return
        self.text += text[len(known) :]
        self._context, self._held = self._held, []

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=self._skip)


class TiktokenTokenizer:
    """A tiktoken encoding: every token is a string of bytes, so text follows byte by byte."""

    def __init__(self, encoding: tiktoken.Encoding, *, bos_token_id: int | None = None) -> None:
        self._encoding = encoding
        self._bos = [] if bos_token_id is None else [bos_token_id]
        self.special_tokens = {name: encoding.encode_single_token(name) for name in encoding.special_tokens_set}
        self._special_ids = frozenset(self.special_tokens.values())

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Encode plain text."""
        ids = self._encoding.encode_ordinary(text)
        return self._bos + ids if add_special_tokens else ids

    def encode_rendered(self, text: str) -> list[int]:
        """Encode text in which special tokens stand for themselves."""
        return self._encoding.encode(text, allowed_special="all")

    def decode(self, token_ids: Items[int], *, skip_special_tokens: bool) -> str:
        """Turn ids into text."""
        parts = (self.token_bytes(index, skip_special_tokens=skip_special_tokens) for index in token_ids)
        return b"".join(parts).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int, *, skip_special_tokens: bool) -> bytes:
        """Bytes of one token; none for an id the vocabulary lacks (a model's may be padded)."""
        if skip_special_tokens and token_id in self._special_ids:
            return b""
        try:
            return self._encoding.decode_single_token_bytes(token_id)
        except KeyError:
            return b""

    def stream(self, *, skip_special_tokens: bool) -> TextStream:
        """Begin an incremental decode."""
        return ByteStream(self, skip_special_tokens=skip_special_tokens)


class ByteStream:
    """Incremental text of a tokenizer whose tokens are bytes."""

    def __init__(self, tokenizer: TiktokenTokenizer, *, skip_special_tokens: bool) -> None:
        self.text = ""
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> None:
        """Add one token to the text."""
        self.text += self._decoder.decode(self._tokenizer.token_bytes(token_id, skip_special_tokens=self._skip))


def load_tiktoken(path: Path, config: dict[str, Any]) -> TiktokenTokenizer:
    """Build an encoding from a rank file (base64 token, space, rank a line) and its tokenizer_config.json."""
    bos = config.get("bos_token")
    try:
        special = {str(name): int(index) for name, index in config["special_tokens"].items()}
        encoding = tiktoken.Encoding(
            name=path.parent.name, pat_str=config["pattern"], mergeable_ranks=read_ranks(path), special_tokens=special
        )
        encoding.encode_ordinary("check")
        bos_token_id = special[bos] if bos else None
    except KeyError as error:
        raise EngineError(f"{path.parent}: tokenizer_config.json lacks {error.args[0]}") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise EngineError(f"{path} is not a readable tiktoken rank file with its config: {error}") from error
    return TiktokenTokenizer(encoding, bos_token_id=bos_token_id)


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read a rank file."""
    ranks: dict[bytes, int] = {}
    for line in path.read_bytes().splitlines():
        if line:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
    return ranks


def split_special(text: str, special_tokens: Items[str]) -> list[str]:
    """Cut text into pieces that are a special token or hold none; longer tokens win."""
    if not special_tokens:
        return [text]
    names = sorted(special_tokens, key=len, reverse=True)
    pattern = "(" + "|".join(re.escape(name) for name in names) + ")"
    return [piece for piece in re.split(pattern, text) if piece]
