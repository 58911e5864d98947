"""Packing: what is written comes back, and any database can hold it."""

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import packing

FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.lists(st.integers(0, 2**31 - 1)))
def test_token_ids_come_back(token_ids: list[int]) -> None:
    assert packing.unpack_token_ids(packing.pack_token_ids(token_ids)) == tuple(token_ids)


@given(st.lists(st.none() | st.floats(max_value=0, width=32, allow_nan=False)))
def test_logprobs_come_back(logprobs: list[float | None]) -> None:
    assert packing.unpack_logprobs(packing.pack_logprobs(logprobs)) == tuple(logprobs)


def test_numbers_are_little_endian() -> None:
    assert packing.pack_token_ids([1, 258]) == b"\1\0\0\0\2\1\0\0"
    assert packing.pack_logprobs([-1.0]) == b"\0\0\x80\xbf"


def test_a_big_endian_machine_writes_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    swapped = packing.pack_token_ids([1])[::-1]
    monkeypatch.setattr(sys, "byteorder", "big")

    assert packing.pack_token_ids([1]) == swapped


def test_minus_infinity_is_a_logprob() -> None:
    assert packing.unpack_logprobs(packing.pack_logprobs([-math.inf])) == (-math.inf,)


def test_a_token_id_beyond_int32_is_refused() -> None:
    with pytest.raises(OverflowError):
        packing.pack_token_ids([2**31])


@given(st.dictionaries(st.text(), JSON))
def test_json_comes_back(body: dict[str, object]) -> None:
    assert packing.load_json(packing.dump_json(body)) == body


@pytest.mark.parametrize("body", [{"prompt": "\ud800"}, {"seed": 2**200}, {"prompt": "a\0b"}, {"x": "\ud83d"}])
def test_json_that_only_a_refused_line_holds_comes_back(body: dict[str, object]) -> None:
    text = packing.dump_json(body)

    assert "\0" not in text
    assert text.encode()
    assert packing.load_json(text) == body


@given(st.text(st.characters(codec=None)))
def test_clean_text_can_be_stored_anywhere(text: str) -> None:
    cleaned = packing.clean_text(text)

    assert "\0" not in cleaned
    assert cleaned.encode().decode() == cleaned


def test_clean_text_leaves_good_text_alone() -> None:
    assert packing.clean_text("naïve 日本 🙂\n") == "naïve 日本 🙂\n"
    assert packing.clean_text("a\0b\ud800") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"
    assert packing.clean_optional(None) is None
