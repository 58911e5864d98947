"""Which token of one row is drawn in a kernel, where top_k, top_p and min_p keep some: worker/engine/filters.py's way.

Draw a token, measure what comes before it, and draw from that alone if it is too much. The k-th greatest weight, where
it is needed, is found by bisection over the bits of floats, which are in the order of the floats themselves.
"""

import triton
import triton.language as tl

from worker.engine.cuda.drawing import BLOCK, TILE, measure, pick, uniform, weigh, weigh_tile

_FEW = tl.constexpr(64)  # filters.py's: up to so many tokens are found first and then drawn from
_ONE_BITS = tl.constexpr(0x3F800000)  # of 1.0, the greatest weight there is
# Each refusal takes at least the drawn token out, so that drawing ends by itself, after ln(V) refusals or so. The bound
# is there since a kernel without an end stops every row; at a million tokens the chance to meet it is below 1e-60.
_MAX_ATTEMPTS = tl.constexpr(128)


@triton.jit
def draw(
    scores,
    tile_peaks,
    block_peaks,
    sums,
    peak,
    temperature,
    first,
    top_k,
    top_p,
    min_p,
    seed,
    index,
    num_tokens,
    NUM_TILES: tl.constexpr,
    TILES: tl.constexpr,
) -> tl.tensor:
    """Draw a token id, int32, from a row whose weights sum up to `sums` [TILES] by tile; `first` is its maximum."""
    num = tl.minimum(tl.where(top_k > 0, top_k, num_tokens), num_tokens).to(tl.int32)
    is_filtered = (num < num_tokens) | (top_p < 1)
    floor = min_p
    total = tl.sum(sums, 0)
    if (num < num_tokens) & ((num <= _FEW) | (top_p < 1)):  # top_p is a share of the mass that top_k leaves
        least, total = _keep_top(scores, tile_peaks, block_peaks, peak, temperature, num, num_tokens, NUM_TILES, TILES)
        floor = tl.maximum(floor, least)
    if floor > 0:
        _, sums = measure(
            scores, tile_peaks, block_peaks, peak, temperature, floor, num_tokens, num_tokens, NUM_TILES, TILES
        )
    limit = tl.where(top_p < 1, top_p * total, float("inf"))
    share = uniform(seed, index, 0)
    token, level = pick(scores, peak, temperature, floor, num_tokens, sums, share, first, num_tokens, TILES)
    attempt = 0
    is_refused = is_filtered
    while is_refused & (attempt < _MAX_ATTEMPTS):
        count, sums = measure(
            scores, tile_peaks, block_peaks, peak, temperature, level, token, num_tokens, NUM_TILES, TILES
        )
        is_refused = (count >= num) | (tl.sum(sums, 0) > limit)
        attempt += 1
        if is_refused:
            share = uniform(seed, index, tl.cast(attempt, tl.int64))
            token, level = pick(scores, peak, temperature, level, token, sums, share, first, num_tokens, TILES)
    return tl.where(is_refused, first, token)


@triton.jit
def _keep_top(
    scores,
    tile_peaks,
    block_peaks,
    peak,
    temperature,
    num,
    num_tokens,
    NUM_TILES: tl.constexpr,
    TILES: tl.constexpr,
):
    """Find the `num`-th greatest weight and the sum of so many; the least and the sum of all, if fewer are not 0.

    Scores computed in bfloat16 are equal more often than not: so the search ends not where just `num` weights are left,
    but where fewer would be without the least of them and its equals.
    """
    low = _bits_of_kth_peak(block_peaks, peak, temperature, num, NUM_TILES, TILES)
    high = _ONE_BITS + 1
    level = low.to(tl.float32, bitcast=True)
    count, mass, least, equals = _reach(
        scores, tile_peaks, block_peaks, peak, temperature, level, num_tokens, NUM_TILES
    )
    while (count - equals >= num) & (high - low > 1):
        middle = low + (high - low) // 2
        level = middle.to(tl.float32, bitcast=True)
        reaching, sum_, lowest, same = _reach(
            scores, tile_peaks, block_peaks, peak, temperature, level, num_tokens, NUM_TILES
        )
        if reaching >= num:
            count, mass, least, equals = reaching, sum_, lowest, same
            low = least.to(tl.int32, bitcast=True)
        else:
            high = middle
    return least, mass - tl.maximum(count - num, 0) * least


@triton.jit
def _reach(scores, tile_peaks, block_peaks, peak, temperature, level, num_tokens, NUM_TILES: tl.constexpr):
    """Count the weights of at least `level` that are not 0, sum them, find the least, and count those equal to it.

    Every place in a tile does so for itself, and the places are brought together at the end.
    """
    counts = tl.full([TILE // BLOCK, BLOCK], 0, tl.int32)
    equals = tl.full([TILE // BLOCK, BLOCK], 0, tl.int32)
    masses = tl.full([TILE // BLOCK, BLOCK], 0.0, tl.float32)
    least = tl.full([TILE // BLOCK, BLOCK], float("inf"), tl.float32)
    for tile in range(NUM_TILES):
        if weigh(tl.load(tile_peaks + tile), peak, temperature) >= level:
            weights = weigh_tile(scores, block_peaks, tile, peak, temperature, level, num_tokens, num_tokens)
            counts += (weights > 0).to(tl.int32)
            masses += weights
            weights = tl.where(weights > 0, weights, float("inf"))
            equals = tl.where(weights < least, 1, equals + (weights == least).to(tl.int32))
            least = tl.minimum(weights, least)
    lowest = tl.min(least)
    return tl.sum(counts), tl.sum(masses), lowest, tl.sum(tl.where(least == lowest, equals, 0))


@triton.jit
def _bits_of_kth_peak(block_peaks, peak, temperature, num, NUM_TILES: tl.constexpr, TILES: tl.constexpr):
    """Bits of a weight that at least `num` tokens reach, each in a block of its own; 0 if there are not so many blocks.

    The bisection begins there, where few blocks are left to read: so the exponent and four bits more are near enough.
    """
    block = tl.arange(0, TILES * (TILE // BLOCK))
    peaks = tl.load(block_peaks + block, mask=block < NUM_TILES * (TILE // BLOCK), other=float("-inf"))
    bits = weigh(peaks, peak, temperature).to(tl.int32, bitcast=True)
    low = 0
    for step in range(11):
        more = low | (1 << (29 - step))
        low = tl.where(tl.sum((bits >= more).to(tl.int32)) >= num, more, low)
    return low
