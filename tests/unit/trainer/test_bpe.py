import re
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe

from worker.trainer.bpe import PATTERN, Ranks, encode_chunk, train_ranks, write_ranks
from worker.trainer.corpus import standard_library_entries
from worker.trainer.data import make_encoding

TEXTS = [entry.line for entry in standard_library_entries()]
RANKS = train_ranks(TEXTS[::5], num_ranks=1200)
ENCODING = make_encoding(RANKS)


def own_encoding(text: str, ranks: Ranks) -> list[int]:
    chunks = re.findall(PATTERN, text)
    return [ranks[token] for chunk in chunks for token in encode_chunk(chunk.encode(), ranks)]


def test_ranks_begin_with_the_bytes_and_fill_the_vocabulary() -> None:
    assert [RANKS[bytes([byte])] for byte in range(256)] == list(range(256))
    assert sorted(RANKS.values()) == list(range(1200))


def test_encoding_is_exact_with_tiktoken_on_the_corpus() -> None:
    for text in TEXTS:
        assert ENCODING.encode_ordinary(text) == own_encoding(text, RANKS)


def test_corpus_makes_the_round_trip() -> None:
    for text in TEXTS:
        assert ENCODING.decode(ENCODING.encode_ordinary(text)) == text


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_any_text_is_exact_with_tiktoken_and_makes_the_round_trip(text: str) -> None:
    tokens = ENCODING.encode_ordinary(text)
    assert tokens == own_encoding(text, RANKS)
    assert ENCODING.decode(tokens) == text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(alphabet="ab c", max_size=24), max_size=12))
def test_trained_chunks_are_encoded_as_training_left_them(texts: list[str]) -> None:
    """Few letters make the awkward cases: one token reached by two splits, merges that undo earlier ones."""
    ranks = train_ranks(texts, num_ranks=300)
    encoding = tiktoken.Encoding("test", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    for text in texts:
        assert encoding.encode_ordinary(text) == own_encoding(text, ranks)


def test_a_prompt_is_a_prefix_of_its_line() -> None:
    """Training shows whole lines and inference prompts: the colon must not merge with what follows."""
    for entry in standard_library_entries():
        prompt = ENCODING.encode_ordinary(entry.prompt)
        assert ENCODING.encode_ordinary(entry.line)[: len(prompt)] == prompt


def test_the_commonest_neighbours_merge_first_and_ties_go_to_smaller_bytes() -> None:
    ranks = train_ranks(["xyz xyz", "xyz", "ab", "ab"], num_ranks=260)
    assert [token for token, rank in ranks.items() if rank >= 256] == [b"xy", b"xyz", b"ab"]


def test_training_stops_when_no_neighbours_repeat() -> None:
    assert len(train_ranks(["abcdef"], num_ranks=400)) == 256


def test_training_needs_room_for_the_bytes() -> None:
    with pytest.raises(ValueError, match="256"):
        train_ranks([], num_ranks=255)


def test_written_ranks_are_read_back_by_tiktoken(tmp_path: Path) -> None:
    write_ranks(tmp_path / "tokenizer.model", RANKS)
    assert load_tiktoken_bpe(str(tmp_path / "tokenizer.model")) == RANKS
