"""Draw from the tokens that top_k, top_p and min_p keep, without looking for where those end.

Draw a token from all, then measure what comes before it in falling order of weight: one pass. If that is too many
tokens (top_k) or too much mass (top_p), draw again from those before it alone. Given that a draw is kept, it is
distributed as the kept tokens are (rejection sampling; FlashInfer's sampling kernels do the same), and each refusal
shrinks the pool by about half. No sort, and what a row draws depends on its own weights and counter alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.randomness import uniform
from worker.engine.reductions import BLOCK, blocks, row_sum, take_block

# Up to so many likeliest tokens are cheaper to find at once than to come upon by refusals.
_FEW = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """Which tokens of B rows stay. Tokens are ordered by falling weight, equal ones by id."""

    floor: Tensor  # [B] float32, the least weight that stays
    num: Tensor  # [B] int64, how many tokens stay
    mass: Tensor  # [B] float32, the most weight that may stand before a token that stays

    def take(self, rows: Tensor) -> "Limits":
        """The limits of some rows, by index."""
        return Limits(self.floor[rows], self.num[rows], self.mass[rows])


def limits_of(weights: Tensor, *, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Limits:
    """Turn the settings [B] into limits on unnormalised weights [B, V], each row's greatest being 1.

    top_p counts the mass of what top_k left; it is strict: a token stays if the mass before it is <= top_p.
    """
    num = top_k.where(top_k > 0, weights.shape[1]).clamp(max=weights.shape[1])
    floor, total = min_p.clone(), row_sum(weights)
    is_sound = total.isfinite()
    few = num <= _FEW
    many = ~few & (num < weights.shape[1]) & (top_p < 1)  # top_p is a share of the mass that top_k leaves
    for asking in (few, many):
        index = asking.nonzero()[:, 0]
        if len(index) == 0:
            continue
        last = num[index, None] - 1
        top = weights[index].topk(int(last.max()) + 1).values  # falling
        total[index] = top.cumsum(-1).gather(1, last)[:, 0]
        floor[index] = floor[index].maximum(top.gather(1, last)[:, 0])
    # A row with a NaN keeps what it draws first: no refusal would take the NaN out of its pool.
    num = num.where(is_sound, weights.shape[1] + 1)
    return Limits(floor, num, (top_p * total).where((top_p < 1) & is_sound, torch.inf))


def draw_within(weights: Tensor, limits: Limits, *, seed: Tensor, index: Tensor) -> Tensor:
    """Draw a token id [B] from the weights [B, V] that stay, V a multiple of 64."""
    tokens = torch.zeros_like(seed)
    rows = torch.arange(len(seed), device=seed.device)
    pool = weights
    if bool((limits.floor > 0).any()):
        pool = weights.clone().ge_(limits.floor[:, None]).mul_(weights)
    attempt = 0
    while len(rows):
        drawn = pick(pool, uniform(seed[rows], index[rows], attempt))
        tokens[rows] = drawn
        before = mask_before(weights, drawn)
        again = is_refused(before, weights, limits).nonzero()[:, 0]
        rows, weights, limits = rows[again], weights[again], limits.take(again)
        pool = pool[again].mul_(before[again])
        attempt += 1
    return tokens


def is_refused(before: Tensor, weights: Tensor, limits: Limits) -> Tensor:
    """Whether too much comes before a token [B], by its mask [B, V]. A row of NaNs keeps what it drew."""
    return (before.sum(-1) >= limits.num) | (row_sum(before * weights) > limits.mass)


def mask_before(weights: Tensor, tokens: Tensor) -> Tensor:
    """Mark the tokens that come before each row's own [B] in falling order of weights [B, V]: 1.0 or 0.0.

    Float masks, since comparing into floats and multiplying by them takes a quarter of the time that booleans take.
    """
    level = weights.gather(1, tokens[:, None])
    before = weights.clone().gt_(level)
    num_equal = weights.clone().ge_(level).sum(-1) - before.sum(-1)  # the token itself, and any ties
    tied = (num_equal > 1).nonzero()[:, 0]
    if len(tied):
        lower_id = torch.arange(weights.shape[1], device=weights.device) < tokens[tied, None]
        before[tied] += (weights[tied] == level[tied]) & lower_id
    return before


def pick(weights: Tensor, draws: Tensor) -> Tensor:
    """Find the token [B] at which the running sum of weights [B, V] passes the share `draws` [B] of the whole."""
    folded = blocks(weights, 0.0)
    cumulative = folded.sum(-1).cumsum(-1)  # [B, V / 64]
    target = _below(draws * cumulative[:, -1], cumulative[:, -1])
    block = _passed(cumulative, target)
    before = cumulative.gather(1, (block - 1).clamp(min=0)[:, None])[:, 0].where(block > 0, 0.0)
    within = take_block(folded, block).cumsum(-1)
    return block * BLOCK + _passed(within, _below(target - before, within[:, -1]))


def _below(value: Tensor, bound: Tensor) -> Tensor:
    """Keep value [B] below its bound, or rounding could reach past the last token that has any weight."""
    return value.minimum(bound.nextafter(torch.zeros_like(bound)))


def _passed(cumulative: Tensor, target: Tensor) -> Tensor:
    """First entry [B] of a rising row [B, N] above its target [B]; the last for a row of NaNs."""
    found = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
    return found.clamp(max=cumulative.shape[1] - 1)
