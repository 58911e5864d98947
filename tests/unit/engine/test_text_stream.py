"""Streamed text against the decode of all tokens, for the tokenizers of the families there are."""

from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers

from tests.unit.engine.models import write_tiktoken, write_tokenizer_json
from worker.engine.tokenizer import Tokenizer, load_tokenizer

FIRST_BYTE = 3  # id of <0x00>
BYTE_TOKENS = {f"<0x{byte:02X}>": FIRST_BYTE + byte for byte in range(256)}
WORDS = ["\u2581", "a", "b", "\u2581a", "\N{REPLACEMENT CHARACTER}"]
WORD_IDS = range(259, 259 + len(WORDS))
PADDED_ID = 900  # in a model's padded vocabulary, in no tokenizer's


def write_sentencepiece_like(folder: Path, *, is_metaspace: bool) -> None:
    """Write what Llama 2, Mistral and TinyLlama have: spaces as U+2581, unknown characters as byte tokens."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | BYTE_TOKENS | dict(zip(WORDS, WORD_IDS, strict=True))
    bpe = models.BPE(vocab=vocabulary, merges=[("\u2581", "a")], byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    tokenizer = tokenizers.Tokenizer(bpe)
    space: list[tokenizers.decoders.Decoder]
    if is_metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        space = [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        space = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(space)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))


def load(folder: Path) -> Tokenizer:
    tokenizer = load_tokenizer(folder)
    assert tokenizer is not None
    return tokenizer


@pytest.fixture(scope="module", params=["metaspace", "replace"])
def fallback(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp(request.param)
    write_sentencepiece_like(folder, is_metaspace=request.param == "metaspace")
    return load(folder)


@pytest.fixture(scope="module", params=["tiktoken", "json"])
def byte_level(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "tiktoken":
        write_tiktoken(folder, special_tokens={"<|end|>": 190, "caf\u00e9 au lait": 191})
    else:
        tokenizer = write_tokenizer_json(folder)
        tokenizer.add_tokens(["caf\u00e9 au lait", "\u0120"])  # outside the alphabet of bytes; within it
        tokenizer.save(str(folder / "tokenizer.json"))
    return load(folder)


def streamed(tokenizer: Tokenizer, ids: list[int], *, skip: bool) -> list[str]:
    """The text after each token and after the end; never shorter than before, and what was out stays."""
    stream = tokenizer.stream(skip_special_tokens=skip)
    seen = []
    for token_id in ids:
        stream.push(token_id)
        seen.append(stream.text)
    stream.finish()
    seen.append(stream.text)
    assert all(after.startswith(before) for before, after in pairwise(seen))
    return seen


@given(
    ids=st.lists(st.one_of(st.integers(120, 193), st.integers(194, 262), st.just(PADDED_ID)), max_size=12),
    skip=st.booleans(),
)
def test_bytes_stream_to_their_decode_whatever_they_are(byte_level: Tokenizer, ids: list[int], skip: bool) -> None:
    assert streamed(byte_level, ids, skip=skip)[-1] == byte_level.decode(ids, skip_special_tokens=skip)


def as_bytes(text: str | bytes) -> list[int]:
    return [FIRST_BYTE + byte for byte in (text.encode() if isinstance(text, str) else text)]


WHOLE = st.text(alphabet="\n\u00e9\u20ac\N{GRINNING FACE}", max_size=3).map(as_bytes)
HALF = st.sampled_from([b"\xe2\x82", b"\xf0\x9f\x98", b"\x80", b"\xff", b"\xc3"]).map(as_bytes)
SILENT = st.sampled_from([[1], [2], [PADDED_ID], []])
VISIBLE = st.sampled_from([[word] for word in WORD_IDS])
RUN = st.one_of(WHOLE, HALF)
PIECE = st.tuples(SILENT, VISIBLE, SILENT, RUN).map(lambda parts: [token_id for part in parts for token_id in part])


@given(first=RUN, pieces=st.lists(PIECE, max_size=5), skip=st.booleans())
def test_byte_fallback_streams_to_its_decode(
    fallback: Tokenizer, first: list[int], pieces: list[list[int]], skip: bool
) -> None:
    """A space after a skipped special token was once lost, and characters after a fourth stray byte."""
    ids = [*first, *(token_id for piece in pieces for token_id in piece)]
    assert streamed(fallback, ids, skip=skip)[-1] == fallback.decode(ids, skip_special_tokens=skip)


@given(text=st.text(alphabet="ab  \n\u00e9\u20ac\N{GRINNING FACE}\u2581\N{REPLACEMENT CHARACTER}", max_size=20))
def test_any_text_streams_to_its_decode(fallback: Tokenizer, text: str) -> None:
    ids = fallback.encode(text, add_special_tokens=False)
    assert streamed(fallback, ids, skip=True)[-1] == fallback.decode(ids, skip_special_tokens=True)


def test_a_character_shows_with_its_last_byte(fallback: Tokenizer) -> None:
    """Llama 2's line end is a byte token: a stop string must not have to wait for the token after it."""
    seen = streamed(fallback, as_bytes("\n\u20ac"), skip=True)
    assert seen == ["\n", "\n", "\n", "\n\u20ac", "\n\u20ac"]


def test_a_character_already_out_stays_when_a_stray_byte_follows(fallback: Tokenizer) -> None:
    ids = [*as_bytes("\u20ac\u20ac"), *as_bytes(b"\x80"), WORD_IDS[1]]
    assert streamed(fallback, ids, skip=True)[-1].startswith("\u20ac\u20ac")
    assert "\u20ac" not in fallback.decode(ids, skip_special_tokens=True)  # the library gives up the whole run


def test_half_a_character_at_the_end_shows_on_finish(fallback: Tokenizer, byte_level: Tokenizer) -> None:
    half = byte_level.encode("\N{GRINNING FACE}", add_special_tokens=False)[:2]
    assert streamed(byte_level, half, skip=True) == ["", "", "\N{REPLACEMENT CHARACTER}"]
    assert streamed(fallback, as_bytes(b"\xe2\x82"), skip=True) == ["", "", "\N{REPLACEMENT CHARACTER}" * 2]


def test_a_replacement_character_that_is_a_token_shows_at_once(fallback: Tokenizer) -> None:
    assert streamed(fallback, [WORD_IDS[1], WORD_IDS[4]], skip=True)[1] == "a\N{REPLACEMENT CHARACTER}"


def test_a_forked_stream_and_its_origin_go_on_by_themselves(byte_level: Tokenizer, fallback: Tokenizer) -> None:
    for tokenizer in (byte_level, fallback):
        ids = tokenizer.encode("a \N{GRINNING FACE}b\u00e9 ", add_special_tokens=False)
        for cut in range(len(ids)):
            origin = tokenizer.stream(skip_special_tokens=True)
            for token_id in ids[:cut]:
                origin.push(token_id)
            fork = origin.fork()
            for stream, rest in ((fork, ids[:1]), (origin, ids[cut:]), (fork, ids[1:])):
                for token_id in rest:
                    stream.push(token_id)
            assert origin.text == streamed(tokenizer, ids, skip=True)[-2]
            assert fork.text == streamed(tokenizer, ids[:cut] + ids, skip=True)[-2]
