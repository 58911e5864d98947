"""One draw from one row in a kernel: the uniform number, and the token at which the running sum of weights passes it.

A row is read in tiles, and a tile in blocks whose greatest scores are known: a block without a token that may be drawn
is never read. What may be drawn is all that comes before some token in falling order of weight, equal ones by id: two
numbers, the weight `level` and the id `last`, in place of a mask over the vocabulary.
"""

import triton
import triton.language as tl

TILE = tl.constexpr(4096)  # tokens
BLOCK = tl.constexpr(512)  # tokens

# randomness.py's numbers; a kernel reads no others than its own module's constants
_MASK32 = tl.constexpr(0xFFFFFFFF)
_GOLDEN = tl.constexpr(0x9E3779B9)
_FINAL = tl.constexpr(0x6A09E667)


@triton.jit
def uniform(seed, index, attempt) -> tl.tensor:
    """Hash int64 scalars to a float32 in [0, 1), as randomness.uniform does, to the bit."""
    folded = _mix((seed & _MASK32) ^ _mix((seed >> 32) & _MASK32))
    value = _mix(folded ^ ((index * _GOLDEN) & _MASK32))
    value = _mix((value + _FINAL + attempt * _GOLDEN) & _MASK32)
    return (value >> 8).to(tl.float32) * (2.0**-24)


@triton.jit
def _mix(value):
    """MurmurHash3's 32-bit finaliser, in int64."""
    value = ((value ^ (value >> 16)) * 0x85EBCA6B) & _MASK32
    value = ((value ^ (value >> 13)) * 0xC2B2AE35) & _MASK32
    return value ^ (value >> 16)


@triton.jit
def weigh(scores, peak, temperature) -> tl.tensor:
    """Turn scores into weights, unnormalised, at most 1. Wherever a token is weighed its weight has the same bits."""
    return tl.exp((scores - peak) / temperature)


@triton.jit
def _weigh_before(scores, tokens, is_read, peak, temperature, level, last):
    """Weigh the tokens that come before the token `last` of weight `level`; all others, and no numbers, weigh 0."""
    weights = weigh(tl.load(scores + tokens, mask=is_read, other=float("-inf")), peak, temperature)
    return tl.where(is_read & ((weights > level) | ((weights == level) & (tokens < last))), weights, 0.0)


@triton.jit
def weigh_tile(scores, block_peaks, tile, peak, temperature, level, last, num_tokens) -> tl.tensor:
    """Weigh a tile's tokens before the token `last` of weight `level` -> [blocks, tokens of a block]; others are 0."""
    block = tl.arange(0, TILE // BLOCK)
    highest = weigh(tl.load(block_peaks + tile * (TILE // BLOCK) + block), peak, temperature)
    tokens = tile * TILE + block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    is_read = (highest >= level)[:, None] & (tokens < num_tokens)
    return _weigh_before(scores, tokens, is_read, peak, temperature, level, last)


@triton.jit
def measure(
    scores,
    tile_peaks,
    block_peaks,
    peak,
    temperature,
    level,
    last,
    num_tokens,
    NUM_TILES: tl.constexpr,
    TILES: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Count the tokens with weight before the token `last` of weight `level`, int32; sum them by tile [TILES]."""
    counts = tl.full([TILE // BLOCK, BLOCK], 0, tl.int32)
    sums = tl.full([TILES], 0.0, tl.float32)
    for tile in range(NUM_TILES):
        if weigh(tl.load(tile_peaks + tile), peak, temperature) >= level:
            weights = weigh_tile(scores, block_peaks, tile, peak, temperature, level, last, num_tokens)
            counts += (weights > 0).to(tl.int32)
            sums = tl.where(tl.arange(0, TILES) == tile, tl.sum(weights), sums)
    return tl.sum(counts), sums


@triton.jit
def pick(
    scores, peak, temperature, level, last, sums, share, first, num_tokens, TILES: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Find where the weights before the token `last` of weight `level` pass a share of their sums by tile [TILES].

    Gives a token's id, int32, and its weight: of `first`, a maximum, where there is no weight or it is no number.
    """
    cumulative = tl.cumsum(sums, 0)
    target = share * tl.sum(sums, 0)
    tile = _passed(cumulative, sums, target, TILES)
    target -= tl.sum(tl.where(tl.arange(0, TILES) == tile - 1, cumulative, 0.0), 0)
    place = tl.arange(0, TILE)
    tokens = tl.maximum(tile, 0) * TILE + place
    weights = _weigh_before(scores, tokens, tokens < num_tokens, peak, temperature, level, last)
    found = _passed(tl.cumsum(weights, 0), weights, target, TILE)
    is_found = (tile >= 0) & (found >= 0)
    weight = tl.sum(tl.where(place == found, weights, 0.0), 0)
    return tl.where(is_found, tile * TILE + found, first), tl.where(is_found, weight, 1.0)


@triton.jit
def _passed(cumulative, weights, target, SIZE: tl.constexpr):
    """First of SIZE entries with weight above the target; where rounding puts it past them the last; -1 if none."""
    place = tl.arange(0, SIZE)
    above = tl.min(tl.where((cumulative > target) & (weights > 0), place, SIZE), 0)
    return tl.where(above < SIZE, above, tl.max(tl.where(weights > 0, place, -1), 0))
