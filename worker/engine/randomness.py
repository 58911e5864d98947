"""Randomness without a generator's state: a hash of (seed, token index), so that a retry draws the same tokens."""

from typing import TypeVar

from torch import Tensor

Integers = TypeVar("Integers", int, Tensor)

_MASK32 = 0xFFFFFFFF
_MASK63 = 0x7FFFFFFFFFFFFFFF
_GOLDEN = 0x9E3779B9  # 2**32 over the golden ratio: neighbouring numbers land far apart
_FINAL = 0x6A09E667


def uniform(seed: Tensor, index: Tensor, attempt: int = 0) -> Tensor:
    """Hash (seed [B], token index [B]), both int64, to floats in [0, 1). A token drawn again counts its attempts."""
    value = _mix(_fold(seed) ^ ((index * _GOLDEN) & _MASK32))
    value = _mix((value + _FINAL + attempt * _GOLDEN) & _MASK32)
    return (value >> 8).float() * 2.0**-24  # 24 bits: all that float32 holds exactly


def derive_seed(seed: int, answer: int) -> int:
    """Seed of one of a request's answers, 63 bits; the first answer (0) has the request's own."""
    if answer == 0:
        return seed
    high = _mix(_fold(seed) ^ ((answer * _GOLDEN) & _MASK32))
    low = _mix((high + _fold(seed) + _FINAL) & _MASK32)
    return (high << 32 | low) & _MASK63


def _fold(seed: Integers) -> Integers:
    """64 bits to 32."""
    return _mix((seed & _MASK32) ^ _mix((seed >> 32) & _MASK32))


def _mix(value: Integers) -> Integers:
    """MurmurHash3's 32-bit finaliser, over ints or int64 lanes."""
    value = ((value ^ (value >> 16)) * 0x85EBCA6B) & _MASK32
    value = ((value ^ (value >> 13)) * 0xC2B2AE35) & _MASK32
    return value ^ (value >> 16)
