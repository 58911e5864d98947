"""The form of API keys."""

import hashlib
import hmac
import re

import pytest

from models.errors import RequestError
from models.keys import check_tenant, matches, new_key, parse_key


def test_new_key_has_its_form_and_256_bits() -> None:
    made = {new_key() for _ in range(100)}

    assert len(made) == 100
    assert all(re.fullmatch(r"bm_[a-z0-9]{8}_[A-Za-z0-9_-]{43}", key) for key in made)


def test_key_is_parsed_to_its_id_and_digest() -> None:
    key = new_key()

    presented = parse_key(key)

    assert presented is not None
    assert presented.id == key[3:11]
    assert presented.digest == hashlib.sha256(key.encode()).digest()
    assert key[12:] not in repr(presented)
    assert presented.digest.hex() not in repr(presented)


@pytest.mark.parametrize("text", ["", "EMPTY", "sk-" + "x" * 48, "bm_"])
def test_anything_else_is_no_key(text: str) -> None:
    assert parse_key(text) is None


def test_a_key_that_is_not_whole_is_none() -> None:
    key = new_key()
    assert [parse_key(text) for text in (key[:-1], key + "A", key.upper(), key + "\n")] == [None] * 4


def test_key_matches_its_own_digest_alone() -> None:
    presented, other = parse_key(new_key()), parse_key(new_key())
    assert presented is not None
    assert other is not None

    assert matches(presented, presented.digest)
    assert not matches(presented, other.digest)
    assert not matches(presented, None)


def test_unknown_id_is_compared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that came sooner for an id that nobody has would tell which ids somebody has."""
    compared: list[int] = []
    whole = hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        compared.append(len(other))
        return whole(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    presented = parse_key(new_key())
    assert presented is not None
    matches(presented, None)
    matches(presented, bytes(32))

    assert compared == [32, 32]


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "../x", "-x", "é", "a\n"])
def test_name_of_a_tenant_is_plain(name: str) -> None:
    assert check_tenant("team-1.prod_x") == "team-1.prod_x"
    with pytest.raises(RequestError, match="1 to 64 letters"):
        check_tenant(name)
