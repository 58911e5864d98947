"""Text to ids and back, with both kinds of tokenizer."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.engine.models import SPECIAL_TOKENS, write_tiktoken, write_tokenizer_json
from worker.engine import EngineError, RowError
from worker.engine.tokenizer import Tokenizer, load_tokenizer

SMILEY = "\N{GRINNING FACE}"
KINDS: dict[str, Callable[[Path], object]] = {"tiktoken": write_tiktoken, "json": write_tokenizer_json}


def load(folder: Path, kind: str) -> Tokenizer:
    KINDS[kind](folder)
    tokenizer = load_tokenizer(folder)
    assert tokenizer is not None
    return tokenizer


def plain(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


@pytest.fixture(params=sorted(KINDS))
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    return load(tmp_path, request.param)


def test_round_trip(tokenizer: Tokenizer) -> None:
    text = f"a b\n{SMILEY} c"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_special_text_in_a_prompt_is_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a<|end|>", add_special_tokens=False)
    assert tokenizer.special_tokens["<|end|>"] not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a<|end|>"


def test_special_tokens_between_pieces_are_special(tokenizer: Tokenizer) -> None:
    end = tokenizer.special_tokens["<|end|>"]
    ids = tokenizer.encode_pieces(["a<|end|>", end, "b"])
    assert ids == [*plain(tokenizer, "a<|end|>"), end, *plain(tokenizer, "b")]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a<|end|>b"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "a<|end|><|end|>b"


def test_start_token_is_added_on_request(tmp_path: Path) -> None:
    for kind, folder in (("tiktoken", tmp_path / "t"), ("json", tmp_path / "j")):
        folder.mkdir()
        tokenizer = load(folder, kind)
        if kind == "tiktoken":
            write_tiktoken(folder, bos_token="<|start|>")
            tokenizer = load_tokenizer(folder) or tokenizer
        start = tokenizer.special_tokens["<|start|>"]
        assert tokenizer.encode("a", add_special_tokens=True) == [start, *plain(tokenizer, "a")]


@pytest.mark.parametrize("skip", [True, False])
def test_stream_holds_half_characters_back(tokenizer: Tokenizer, skip: bool) -> None:
    end = tokenizer.special_tokens["<|end|>"]
    ids = [*plain(tokenizer, f"x{SMILEY}"), end, *plain(tokenizer, "y")]
    stream = tokenizer.stream(skip_special_tokens=skip)
    seen = []
    for token_id in ids:
        stream.push(token_id)
        seen.append(stream.text)
    assert seen[:5] == ["x", "x", "x", "x", f"x{SMILEY}"]
    assert stream.text == tokenizer.decode(ids, skip_special_tokens=skip)


def test_stream_passes_bytes_that_are_no_character(tokenizer: Tokenizer) -> None:
    half, letter = plain(tokenizer, SMILEY)[0], plain(tokenizer, "y")[0]
    stream = tokenizer.stream(skip_special_tokens=True)
    for token_id in [half] * 6 + [letter]:
        stream.push(token_id)
    assert stream.text.endswith("y")
    assert set(stream.text[:-1]) == {"\N{REPLACEMENT CHARACTER}"}


def test_ids_without_text_decode_to_nothing(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([*plain(tokenizer, "a"), 100_000], skip_special_tokens=True) == "a"


def test_folder_without_tokenizer_has_none(tmp_path: Path) -> None:
    assert load_tokenizer(tmp_path) is None


def test_broken_tokenizer_json_is_named_and_wins_over_a_rank_file(tmp_path: Path) -> None:
    write_tiktoken(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(EngineError, match="not a readable tokenizer"):
        load_tokenizer(tmp_path)


def test_sentencepiece_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02\n\x0c\n\x03<s>")
    with pytest.raises(EngineError, match=r"SentencePiece model must be converted to tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_an_error_of_the_library_is_the_rows_fault(tokenizer: Tokenizer) -> None:
    with pytest.raises(RowError, match="cannot encode this text") as caught:
        tokenizer.encode(None, add_special_tokens=False)  # type: ignore[arg-type]
    assert caught.value.code == "invalid_prompt"
    assert plain(tokenizer, "a")


@pytest.mark.parametrize("text", ["a" * 300_000, " " * 1_000_001, "\0" * 1000, "\n " * 100_000])
def test_hostile_text_makes_the_round_trip(tokenizer: Tokenizer, text: str) -> None:
    """A million spaces once overflowed the stack of tiktoken's regular expressions, which panics."""
    ids = plain(tokenizer, text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_special_tokens_are_known_by_name(tmp_path: Path) -> None:
    assert load(tmp_path, "tiktoken").special_tokens == SPECIAL_TOKENS
