"""Text to token ids and back: what the engine asks of a tokenizer, and which kind a folder holds. Knows no model.

Text in a prompt that looks like a special token is encoded as text: a user cannot end a turn from within it.
"""

from collections.abc import Sequence as Items
from pathlib import Path
from typing import Protocol

from worker.engine.huggingface_tokenizer import HuggingFaceTokenizer
from worker.engine.llama3_tokenizer import load_llama3
from worker.engine.spec import read_json
from worker.engine.tiktoken_tokenizer import is_rank_file, load_named, load_ranked
from worker.engine.types import EngineError


class TextStream(Protocol):
    """Text of tokens as they come; half a character is held back until it is whole."""

    text: str

    def push(self, token_id: int) -> None:
        """Add one token to the text."""

    def finish(self) -> None:
        """Add what is held back; no token may follow."""

    def fork(self) -> "TextStream":
        """Make a stream that goes on from here by itself."""


class Tokenizer(Protocol):
    """What the engine needs of a tokenizer. Its methods may be called from several threads."""

    special_tokens: dict[str, int]
    stop_token_ids: tuple[
        int, ...
    ]  # ends of an answer that the vocabulary defines; a model's configuration adds its own
    chat_template: str | None  # the template of the vocabulary's makers, for a folder that brings none

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Encode plain text. Raises RowError for text the tokenizer cannot take."""

    def encode_pieces(self, pieces: Items[str | int]) -> list[int]:
        """Encode plain text with ids of special tokens in between, as one text. Raises RowError like `encode`."""

    def decode(self, token_ids: Items[int], *, skip_special_tokens: bool) -> str:
        """Turn ids into text; bytes that are no character become U+FFFD, ids without a text nothing."""

    def stream(self, *, skip_special_tokens: bool) -> TextStream:
        """Begin an incremental decode."""


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """Load the folder's tokenizer; None where it has no tokenizer files and prompts must be token ids.

    A tokenizer.json wins over a tokenizer.model beside it. Raises EngineError for files of another kind.
    """
    if (folder / "tokenizer.json").is_file():
        return HuggingFaceTokenizer(folder / "tokenizer.json")
    config_path = folder / "tokenizer_config.json"
    config = read_json(config_path) if config_path.is_file() else {}
    if config.get("tokenizer_class") == "tiktoken":
        return load_named(config_path, config) if "encoding" in config else load_ranked(folder, config)
    path = folder / "tokenizer.model"
    if not path.is_file():
        return None
    if not is_rank_file(path):
        raise EngineError(
            f"{path} is not a tiktoken rank file; a SentencePiece model must be converted to tokenizer.json"
            " (transformers does: AutoTokenizer.from_pretrained(folder).save_pretrained(folder))"
        )
    return load_llama3(path)
