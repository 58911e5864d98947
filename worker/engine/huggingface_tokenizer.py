"""Hugging Face's tokenizer.json, encoded and decoded as `transformers` does."""

import re
import secrets
from collections.abc import Sequence as Items
from pathlib import Path

import tokenizers

from worker.engine.row_fault import blaming_the_text
from worker.engine.text_stream import ByteStream, WindowStream
from worker.engine.types import EngineError

_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")  # SentencePiece's spelling of one byte


class HuggingFaceTokenizer:
    """A tokenizer.json, held twice: as it is, and with an alias for each special token.

    Both take special tokens in text for text. An alias carries a secret, so no text holds one; it stands for the token
    where a chat template put it. So a chat is encoded in one piece, with all that spaces beside a token mean to it.
    Added tokens that are not special ("<think>" of some models) keep their one id wherever they stand, as in
    `transformers`. What is put before a prompt is up to the file's post-processor, as there, whatever
    `add_bos_token` in tokenizer_config.json says.
    """

    stop_token_ids: tuple[int, ...] = ()
    chat_template: str | None = None

    def __init__(self, path: Path) -> None:
        self._plain, self._aliased = _read(path), _read(path)
        added = self._plain.get_added_tokens_decoder()
        special = {index: token for index, token in added.items() if token.special}
        self.special_tokens = {token.content: index for index, token in special.items()}
        self._special_ids = frozenset(special)
        secret = secrets.token_hex(8)
        self._aliases = {index: f"{secret}{token.content}" for index, token in special.items()}
        self._originals = {
            _add_alias(self._aliased, self._aliases[index], token): index for index, token in special.items()
        }
        vocabulary = self._plain.get_vocab(with_added_tokens=False)
        self._byte_ids = frozenset(index for token, index in vocabulary.items() if _BYTE_TOKEN.fullmatch(token))
        self._is_byte_level = isinstance(self._plain.decoder, tokenizers.decoders.ByteLevel)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Encode plain text."""
        with blaming_the_text():
            return list(self._plain.encode(text, add_special_tokens=add_special_tokens).ids)

    def encode_pieces(self, pieces: Items[str | int]) -> list[int]:
        """Encode plain text with ids of special tokens in between, as one text."""
        text = "".join(piece if isinstance(piece, str) else self._aliases[piece] for piece in pieces)
        with blaming_the_text():
            ids = self._aliased.encode(text, add_special_tokens=False).ids
        return [self._originals.get(index, index) for index in ids]

    def decode(self, token_ids: Items[int], *, skip_special_tokens: bool) -> str:
        """Turn ids into text."""
        return str(self._plain.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    def stream(self, *, skip_special_tokens: bool) -> ByteStream | WindowStream:
        """Begin an incremental decode."""
        if self._is_byte_level:
            return ByteStream(lambda token_id: self._token_bytes(token_id, skip_special_tokens=skip_special_tokens))
        return WindowStream(
            lambda token_ids: self.decode(token_ids, skip_special_tokens=skip_special_tokens), byte_ids=self._byte_ids
        )

    def _token_bytes(self, token_id: int, *, skip_special_tokens: bool) -> bytes:
        """Bytes of a token of a byte-level vocabulary; text outside its alphabet stands for itself."""
        token = self._plain.id_to_token(token_id)
        if token is None or (skip_special_tokens and token_id in self._special_ids):
            return b""
        try:
            return bytes(_BYTE_OF[character] for character in token)
        except KeyError:
            return token.encode()


def _read(path: Path) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise EngineError(f"{path} is not a readable tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _add_alias(tokenizer: tokenizers.Tokenizer, alias: str, token: tokenizers.AddedToken) -> int:
    """Add a token that takes the spaces beside it as the original does, and give its id."""
    flags = {"lstrip": token.lstrip, "rstrip": token.rstrip, "single_word": token.single_word}
    tokenizer.add_tokens([tokenizers.AddedToken(alias, normalized=False, special=False, **flags)])
    return tokenizer.encode(alias, add_special_tokens=False).ids[0]


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable ones as themselves, the others as the characters from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
