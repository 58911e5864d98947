"""From scores to chosen tokens on a GPU, in two kernels without a word of the host's: fit for a captured graph.

The first kernel reads every score once, in tiles spread over the whole GPU however few the rows. The second has one
program a row. For a row that keeps every token it reads one tile more. Filters make it go over the row's blocks again,
once or twice for top_p and three to eight times for top_k, but it reads only those with a score high enough. A single
row's filters leave most of a GPU idle meanwhile; more programs a row would have to wait for each other in every pass.

The order of every sum depends on the vocabulary alone, and a program sees nothing of other rows, so that a row has the
same bits in every batch. The tokens are those of worker/engine/sampling.py but where a sum's rounding decides.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from worker.engine.cuda.drawing import BLOCK, TILE, weigh
from worker.engine.cuda.selection import draw


def sample_rows(
    scores: Tensor,
    changed: Tensor,
    *,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seed: Tensor,
    generated: Tensor,
) -> tuple[Tensor, Tensor]:
    """Choose one token a row -> ids [B] int64, logprobs [B] float32 under the raw scores.

    scores are raw, changed are those after penalties and bans or the same tensor: [B, V] float32, each row contiguous.
    Settings are contiguous [B], as SamplingState has them: temperature (0 takes the first maximum), top_p (strict) and
    min_p float32, top_k (0 for none), seed and generated int64. Scores of -inf are never drawn. A row with a NaN, or
    without a score above -inf, gets some token, and its logprob is NaN if the raw scores are such.
    """
    num_rows, num_tokens = scores.shape
    num_tiles = triton.cdiv(num_tokens, TILE.value)
    block_peaks = scores.new_empty(num_rows, num_tiles * (TILE.value // BLOCK.value))
    tiles = scores.new_empty(num_rows, 4, num_tiles)  # peak and mass of the changed scores, then of the raw
    tokens = torch.empty_like(generated)
    logprobs = scores.new_empty(num_rows)
    rows = (scores, changed, scores.stride(0), changed.stride(0), num_tokens)
    _summarise[(num_rows, num_tiles)](*rows, temperature, block_peaks, tiles, NUM_TILES=num_tiles)
    _choose[(num_rows,)](
        *rows,
        *(temperature, top_k, top_p, min_p, seed, generated),
        *(block_peaks, tiles, tokens, logprobs),
        NUM_TILES=num_tiles,
        TILES=triton.next_power_of_2(num_tiles),
        num_warps=16,
    )
    return tokens, logprobs


@triton.jit
def _summarise(
    scores,
    changed,
    scores_stride,
    changed_stride,
    num_tokens,
    temperatures,
    block_peaks,
    tiles,
    NUM_TILES: tl.constexpr,
):
    """Leave the greatest score of each block of one tile, and the tile's weights summed up relative to its greatest."""
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    block = tl.arange(0, TILE // BLOCK)
    token = tile * TILE + block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    is_there = token < num_tokens
    temperature = _divisor(tl.load(temperatures + row))
    x = tl.load(changed + row * changed_stride + token, mask=is_there, other=float("-inf"))
    highest = tl.max(_numbers(x), 1)
    tl.store(block_peaks + (row * NUM_TILES + tile) * (TILE // BLOCK) + block, highest)
    place = tiles + row * 4 * NUM_TILES + tile
    _leave(place, x, tl.max(highest), temperature, NUM_TILES)
    x = tl.load(scores + row * scores_stride + token, mask=is_there, other=float("-inf"))
    _leave(place + 2 * NUM_TILES, x, tl.max(_numbers(x)), 1.0, NUM_TILES)


@triton.jit
def _numbers(x):
    """Leave what is no number out of a maximum, on every device; the sums have it."""
    return tl.where(x == x, x, float("-inf"))


@triton.jit
def _leave(place, x, peak, temperature, NUM_TILES: tl.constexpr):
    """Store a tile's greatest score and its mass relative to that; a tile without a score above -inf has none."""
    tl.store(place, peak)
    weights = weigh(x, tl.where(peak == float("-inf"), 0.0, peak), temperature)
    tl.store(place + NUM_TILES, tl.sum(weights))


@triton.jit
def _choose(
    scores,
    changed,
    scores_stride,
    changed_stride,
    num_tokens,
    temperatures,
    top_ks,
    top_ps,
    min_ps,
    seeds,
    indices,
    block_peaks,
    tiles,
    tokens,
    logprobs,
    NUM_TILES: tl.constexpr,
    TILES: tl.constexpr,
):
    """Choose the token of one row."""
    row = tl.program_id(0).to(tl.int64)
    temperature = tl.load(temperatures + row)
    divisor = _divisor(temperature)
    scores += row * scores_stride
    changed += row * changed_stride
    tiles += row * 4 * NUM_TILES
    tile = tl.arange(0, TILES)
    is_there = tile < NUM_TILES
    peaks = tl.load(tiles + tile, mask=is_there, other=float("-inf"))
    peak = tl.max(peaks, 0)
    token = _first_maximum(changed, peaks, peak, num_tokens, NUM_TILES, TILES)
    if temperature > 0:
        masses = tl.load(tiles + NUM_TILES + tile, mask=is_there, other=0.0)
        token = draw(
            changed,
            tiles,
            block_peaks + row * (NUM_TILES * (TILE // BLOCK)),
            masses * weigh(peaks, peak, divisor),
            peak,
            divisor,
            token,
            tl.load(top_ks + row),
            tl.load(top_ps + row),
            tl.load(min_ps + row),
            tl.load(seeds + row),
            tl.load(indices + row),
            num_tokens,
            NUM_TILES,
            TILES,
        )
    peaks = tl.load(tiles + 2 * NUM_TILES + tile, mask=is_there, other=float("-inf"))
    masses = tl.load(tiles + 3 * NUM_TILES + tile, mask=is_there, other=0.0)
    peak = tl.max(peaks, 0)
    log_norm = tl.log(tl.sum(masses * weigh(peaks, peak, 1.0), 0)) + peak
    tl.store(tokens + row, token.to(tl.int64))
    tl.store(logprobs + row, tl.load(scores + token) - log_norm)


@triton.jit
def _divisor(temperature):
    """A row of temperature 0 draws nothing, and its weights are not used."""
    return tl.where(temperature > 0, temperature, 1.0)


@triton.jit
def _first_maximum(scores, peaks, peak, num_tokens, NUM_TILES: tl.constexpr, TILES: tl.constexpr):
    """Lowest id, int32, of the greatest score; some id of the vocabulary where that is no number."""
    tile = tl.min(tl.where(peaks == peak, tl.arange(0, TILES), NUM_TILES - 1), 0)
    token = tile * TILE + tl.arange(0, TILE)
    x = tl.load(scores + token, mask=token < num_tokens, other=float("-inf"))
    return tl.min(tl.where(x == peak, token, num_tokens - 1), 0)
