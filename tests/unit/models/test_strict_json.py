"""Strict JSON: equal keys are found wherever they are, and nothing else is taken for them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import RequestError
from models.packing import dump_json
from models.strict_json import parse

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=3), values, max_size=4))
def test_what_was_written_is_read(value: dict[str, object]) -> None:
    assert parse(dump_json(value).encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": 1, "a": 1}',
        b'{"a": 1, "\\u0061": 2}',
        b'{"a": 1, "a": 2, "b": "\\u003a"}',
        b'{"a": 1, "a": 2, "b": "\\u003A"}',
        b'{"a:": 1, "a:": 2}',
        b'[{"b": {"a": 1, "a": 2}}]',
        b'{"a": ["x", {"b": 1, "b": 2}]}',
        b'{"a": {"b": 1}, "a": ":"}',
        b'{"a": ":", "a": ""}',
    ],
)
def test_equal_keys_are_found(text: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        parse(text)
    assert caught.value.error_code == "duplicate_key"


@pytest.mark.parametrize("num_levels", [1020, 1100, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_deep_nesting_ends_in_an_answer(num_levels: int, opening: bytes, closing: bytes) -> None:
    """A reader in Python that follows the nesting fails some levels before orjson does; it was a 500."""
    with pytest.raises(RequestError) as caught:
        parse(opening * num_levels + b"1" + closing * num_levels)
    assert caught.value.error_code == "invalid_json"
