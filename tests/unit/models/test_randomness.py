"""Random bits: never given out twice, not even to a process that was forked."""

import os

import pytest

from models.randomness import POOL_BYTES, random_bits, random_hex


def test_bits_stay_below_their_number_and_reach_it() -> None:
    for num_bits in (1, 7, 8, 62, 63):
        drawn = [random_bits(num_bits) for _ in range(200)]
        assert 2 ** (num_bits - 1) <= max(drawn) < 2**num_bits


def test_nothing_is_given_out_twice() -> None:
    drawn = [random_hex(16) for _ in range(POOL_BYTES)]
    assert len(set(drawn)) == len(drawn)
    assert {len(text) for text in drawn} == {32}


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_child_draws_its_own() -> None:
    random_hex(16)
    readable, writable = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writable, random_hex(16).encode())
        os._exit(0)
    os.waitpid(child, 0)

    assert os.read(readable, 32).decode() != random_hex(16)
    os.close(readable)
    os.close(writable)
