"""tiktoken encodings: rank files with a configuration beside them, and the named ones that tiktoken knows."""

import base64
import re
import threading
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Items
from pathlib import Path
from typing import Any

import tiktoken

from worker.engine.row_fault import blaming_the_text
from worker.engine.text_stream import ByteStream
from worker.engine.types import EngineError

# tiktoken sets no limit of its own to a download; the largest file is 3.6 MB.
_DOWNLOAD_SECONDS = 60.0
# As Meta cuts text for Llama 3 (tokenizer.py, MAX_NO_WHITESPACES_CHARS): a run of a million spaces overflows the
# stack of tiktoken's regular expressions, and in 0.9 a long word took time by the square of its length.
_MAX_RUN_CHARS = 25_000
_RUN = re.compile(rf"\s{{1,{_MAX_RUN_CHARS}}}|\S{{1,{_MAX_RUN_CHARS}}}")
_RANK_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]+\r?")
_LINE_BYTES = 1024  # a rank file's first line is far shorter


class TiktokenTokenizer:
    """A tiktoken encoding: every token is a string of bytes, so text follows byte by byte."""

    def __init__(
        self,
        encoding: tiktoken.Encoding,
        *,
        bos_token_id: int | None = None,
        stop_token_ids: tuple[int, ...] = (),
        chat_template: str | None = None,
    ) -> None:
        self._encoding = encoding
        self._bos = [] if bos_token_id is None else [bos_token_id]
        self.special_tokens = {name: encoding.encode_single_token(name) for name in encoding.special_tokens_set}
        self.stop_token_ids = stop_token_ids
        self.chat_template = chat_template
        self._special_ids = frozenset(self.special_tokens.values())

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Encode plain text."""
        ids = self._encode_text(text)
        return self._bos + ids if add_special_tokens else ids

    def encode_pieces(self, pieces: Items[str | int]) -> list[int]:
        """Encode plain text with ids of special tokens in between, as one text."""
        parts = [[piece] if isinstance(piece, int) else self._encode_text(piece) for piece in pieces]
        return [token_id for part in parts for token_id in part]

    def decode(self, token_ids: Items[int], *, skip_special_tokens: bool) -> str:
        """Turn ids into text."""
        parts = (self._token_bytes(index, skip_special_tokens=skip_special_tokens) for index in token_ids)
        return b"".join(parts).decode("utf-8", errors="replace")

    def stream(self, *, skip_special_tokens: bool) -> ByteStream:
        """Begin an incremental decode."""
        return ByteStream(lambda index: self._token_bytes(index, skip_special_tokens=skip_special_tokens))

    def _encode_text(self, text: str) -> list[int]:
        with blaming_the_text():
            return [token_id for part in _cut_runs(text) for token_id in self._encoding.encode_ordinary(part)]

    def _token_bytes(self, token_id: int, *, skip_special_tokens: bool) -> bytes:
        """Bytes of one token; none for an id the vocabulary lacks (a model's may be padded)."""
        if skip_special_tokens and token_id in self._special_ids:
            return b""
        try:
            return self._encoding.decode_single_token_bytes(token_id)
        except KeyError:
            return b""


def load_ranked(folder: Path, config: Mapping[str, Any]) -> TiktokenTokenizer:
    """Build an encoding from a folder's rank file (base64 token, space, rank a line) and its tokenizer_config.json.

    The configuration gives `pattern` and `special_tokens` (name to id), and as Hugging Face's `bos_token`, set before
    a text unless `add_bos_token` is false.
    """
    path = folder / "tokenizer.model"
    ranks = read_ranks(path)
    try:
        special = {str(name): int(index) for name, index in config["special_tokens"].items()}
        bos_token_id = _bos_token_id(config, special)
        pattern = str(config["pattern"])
    except KeyError as error:
        raise EngineError(f"{folder}: tokenizer_config.json lacks {error.args[0]}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise EngineError(f"{folder}: tokenizer_config.json does not map special_tokens to ids: {error}") from error
    return TiktokenTokenizer(make_encoding(path, ranks, pattern, special), bos_token_id=bos_token_id)


def load_named(path: Path, config: Mapping[str, Any]) -> TiktokenTokenizer:
    """Load the encoding that a tokenizer_config.json names, such as cl100k_base, from tiktoken's cache or the network.

    Raises EngineError for a name tiktoken does not know, and where its file is neither cached nor to be had in time.
    """
    name = config["encoding"]
    known = tiktoken.list_encoding_names()
    if name not in known:
        raise EngineError(f"{path}: encoding {name!r} is not one tiktoken knows; {', '.join(known)} are")
    encoding = _fetch(name)
    special = {token: encoding.encode_single_token(token) for token in encoding.special_tokens_set}
    try:
        return TiktokenTokenizer(encoding, bos_token_id=_bos_token_id(config, special))
    except KeyError as error:
        raise EngineError(f"{path}: bos_token {error.args[0]} is no special token of {name}") from error


def make_encoding(
    path: Path, ranks: dict[bytes, int], pattern: str, special_tokens: Mapping[str, int]
) -> tiktoken.Encoding:
    """Build an encoding from what was read of a folder. Raises EngineError where tiktoken cannot use it."""
    try:
        encoding = tiktoken.Encoding(
            name=path.parent.name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=dict(special_tokens)
        )
        encoding.encode_ordinary("check")
    except (ValueError, KeyError) as error:
        raise EngineError(f"{path} and its split pattern are no tiktoken encoding: {error}") from error
    return encoding


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read a rank file. Raises EngineError for any other."""
    ranks: dict[bytes, int] = {}
    try:
        for line in path.read_bytes().splitlines():
            if line:
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
    except (OSError, ValueError) as error:
        raise EngineError(f"{path} is not a readable tiktoken rank file: {error}") from error
    return ranks


def is_rank_file(path: Path) -> bool:
    """Whether a tokenizer.model begins as a rank file does; SentencePiece's, of the same name, is binary."""
    with path.open("rb") as file:
        return _RANK_LINE.fullmatch(file.readline(_LINE_BYTES).rstrip(b"\n")) is not None


def _bos_token_id(config: Mapping[str, Any], special: Mapping[str, int]) -> int | None:
    bos = config.get("bos_token")
    return special[bos] if bos and config.get("add_bos_token", True) else None


def _fetch(name: str) -> tiktoken.Encoding:
    """Load a named encoding on a thread of its own, which is left behind if the network does not answer in time."""
    found: list[tiktoken.Encoding] = []
    errors: list[Exception] = []

    def load() -> None:
        try:
            found.append(tiktoken.get_encoding(name))
        except Exception as error:  # requests raises some, a broken file others
            errors.append(error)

    thread = threading.Thread(target=load, name=f"tiktoken-{name}", daemon=True)
    thread.start()
    thread.join(_DOWNLOAD_SECONDS)
    if found:
        return found[0]
    reason = type(errors[0]).__name__ if errors else f"no answer within {_DOWNLOAD_SECONDS:g} s"
    raise EngineError(
        f"the tiktoken encoding {name} is not cached and cannot be downloaded ({reason}):"
        " set TIKTOKEN_CACHE_DIR to a folder that holds its file"
    ) from (errors[0] if errors else None)


def _cut_runs(text: str) -> Iterator[str]:
    """Cut a text within runs of more than 25,000 characters with or without a space; any other stays whole."""
    if len(text) <= _MAX_RUN_CHARS:
        yield text
        return
    start = 0
    for run in _RUN.finditer(text):
        end = run.end()
        if end - run.start() == _MAX_RUN_CHARS and end < len(text) and text[end].isspace() == text[end - 1].isspace():
            yield text[start:end]
            start = end
    yield text[start:]
