"""From scores to chosen tokens: [B, V] operations only, no loop over rows, no sort of the vocabulary.

Each row's result depends on its own scores and settings alone, whatever its neighbours ask for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_TOP_LOGPROBS = 20
# The likeliest tokens looked at before the whole vocabulary is searched for a threshold: nearly always enough.
_NUM_CANDIDATES = 1024
_MASK32 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class SamplingState:
    """The settings of B rows, one tensor a setting."""

    temperature: Tensor  # [B] float32; 0 is argmax
    top_k: Tensor  # [B] int64; 0 is no limit
    top_p: Tensor  # [B] float32
    min_p: Tensor  # [B] float32
    seed: Tensor  # [B] int64
    generated: Tensor  # [B] int64, the index of the token to be drawn
    min_tokens: Tensor  # [B] int64
    stop_ids: Tensor  # [B, N] int64, -1 where unused


@dataclass(frozen=True, slots=True)
class Features:
    """What any of the rows asks for; the rest is skipped. Skipping never changes a row that does not ask."""

    sampled: bool = False
    filtered: bool = False  # top_k or top_p
    min_p: bool = False
    min_tokens: bool = False


def sample(scores: Tensor, state: SamplingState, features: Features) -> tuple[Tensor, Tensor]:
    """Choose one token a row from raw scores [B, V] float32 -> token ids [B], logprobs [B] under the raw scores."""
    allowed = ban_stops(scores, state) if features.min_tokens else scores
    tokens = allowed.max(-1).indices  # the first of equals, as argmax, at a third of its time
    if features.sampled:
        tokens = torch.where(state.temperature > 0, draw(allowed, state, features), tokens)
    logprobs = scores.gather(1, tokens[:, None])[:, 0] - scores.logsumexp(-1)
    return tokens, logprobs


def ban_stops(scores: Tensor, state: SamplingState) -> Tensor:
    """Forbid each row's stop tokens until it has generated min_tokens."""
    ids = state.stop_ids.where(state.stop_ids >= 0, state.stop_ids[:, :1]).clamp(min=0)
    active = (state.generated < state.min_tokens) & (state.stop_ids[:, 0] >= 0)
    banned = scores.gather(1, ids).masked_fill(active[:, None], -torch.inf)
    return scores.scatter(1, ids, banned)


def draw(scores: Tensor, state: SamplingState, features: Features) -> Tensor:
    """Draw a token id [B] from each row's filtered, tempered distribution by its counter."""
    temperature = state.temperature.where(state.temperature > 0, 1.0)[:, None]
    x = (scores - scores.amax(-1, keepdim=True)) / temperature  # <= 0, so no temperature overflows
    kept = x > -torch.inf
    if features.filtered:
        kept &= keep_top(x, state.top_k, state.top_p)
    if features.min_p:
        kept &= x >= state.min_p.log()[:, None]  # p >= min_p * max p
    cumulative = x.exp().where(kept, 0.0).cumsum(-1)
    total = cumulative[:, -1]
    # Below the total, or rounding could reach past the last token that was kept.
    target = (uniform(state.seed, state.generated) * total).minimum(total.nextafter(torch.zeros_like(total)))
    picked = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
    return picked.clamp(max=scores.shape[1] - 1)  # only a row of NaNs gets there


def keep_top(x: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Mask [B, V] of the tokens that top_k, then top_p, keep of scaled scores x [B, V].

    Tokens are ordered by score, equal ones by id. top_p is strict: a token stays if the mass before it is <= p.
    """
    unlimited = (top_k <= 0) | (top_k >= x.shape[1])
    num_top = top_k.where(~unlimited, x.shape[1])
    threshold, num_ties, enough = _search_candidates(x, num_top, top_p)
    off = unlimited & (top_p >= 1)
    threshold = threshold.masked_fill(off, -torch.inf)
    rest = ~(enough | off)
    if bool(rest.any()):
        threshold[rest], num_ties[rest] = _search_vocabulary(x[rest], num_top[rest], top_p[rest])
    equal = x == threshold[:, None]
    return (x > threshold[:, None]) | (equal & (equal.cumsum(-1) <= num_ties[:, None]))


def _search_candidates(x: Tensor, num_top: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find where each row's kept tokens end among its likeliest ones.

    Gives the last kept score [B], how many tokens equal to it stay [B], and whether the end was among them [B].
    """
    top = x.topk(min(_NUM_CANDIDATES, x.shape[1])).values  # [B, K], falling
    in_top_k = torch.arange(top.shape[1], device=x.device) < num_top[:, None]
    limited = num_top <= top.shape[1]
    norm = top.where(in_top_k, -torch.inf).logsumexp(-1).where(limited, x.logsumexp(-1))
    mass = (top - norm[:, None]).exp()
    before = mass.cumsum(-1) - mass
    keep = in_top_k & ((before <= top_p[:, None]) | (top_p >= 1)[:, None])
    keep[:, 0] = True
    num_kept = keep.cumprod(-1).sum(-1)
    threshold = top.gather(1, num_kept[:, None] - 1)[:, 0]
    num_ties = num_kept - (top > threshold[:, None]).sum(-1)
    enough = limited | (num_kept < top.shape[1])
    return threshold, num_ties, enough


def _search_vocabulary(x: Tensor, num_top: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor]:
    """As `_search_candidates`, over the whole vocabulary: bisect the value axis, first by count, then by mass."""
    by_count = _lowest(x, lambda level: (x > level[:, None]).sum(-1) < num_top)
    ties_by_count = num_top - (x > by_count[:, None]).sum(-1)
    equal = x == by_count[:, None]
    in_top_k = (x > by_count[:, None]) | (equal & (equal.cumsum(-1) <= ties_by_count[:, None]))
    mass = x.where(in_top_k, -torch.inf).softmax(-1)

    def mass_above(level: Tensor) -> Tensor:
        return mass.where(x > level[:, None], 0.0).sum(-1)

    by_mass = _lowest(x, lambda level: mass_above(level) <= top_p)
    each = mass.where(x == by_mass[:, None], 0.0).amax(-1)
    ties_by_mass = ((top_p - mass_above(by_mass)) / each).floor().clamp(max=x.shape[1]).long() + 1
    cut_by_mass = (top_p < 1) & (by_mass >= by_count)
    num_ties = ties_by_mass.minimum(ties_by_count.where(by_mass == by_count, x.shape[1]))
    return by_mass.where(cut_by_mass, by_count), num_ties.where(cut_by_mass, ties_by_count)


def _lowest(x: Tensor, fits: Callable[[Tensor], Tensor]) -> Tensor:
    """Bisect for the lowest float32 level [B] in the range of x [B, V] that fits; the row's maximum always does.

    Bisection runs on the bit patterns, whose order as integers is that of the floats: it ends on the exact level.
    """
    low = _to_key(x.masked_fill(x == -torch.inf, torch.finfo(torch.float32).min).amin(-1)) - 1
    high = _to_key(x.amax(-1))
    for _ in range(33):  # the keys span 32 bits
        middle = (low + high) >> 1
        ok = fits(_from_key(middle))
        high = middle.where(ok, high)
        low = low.where(ok, middle)
    return _from_key(high)


def _to_key(value: Tensor) -> Tensor:
    """Map float32 to int64 keeping order."""
    bits = (value + 0.0).view(torch.int32).long()  # adding 0 turns -0 into 0
    return bits.where(bits >= 0, bits ^ 0x7FFFFFFF)


def _from_key(key: Tensor) -> Tensor:
    bits = key.where(key >= 0, key ^ 0x7FFFFFFF)
    return bits.to(torch.int32).view(torch.float32)


def uniform(seed: Tensor, index: Tensor) -> Tensor:
    """Hash (seed [B], token index [B]), both int64, to floats in [0, 1): one draw a token, no generator state."""
    value = _mix((seed & _MASK32) ^ _mix((seed >> 32) & _MASK32))
    value = _mix(value ^ ((index * 0x9E3779B9) & _MASK32))
    value = _mix((value + 0x6A09E667) & _MASK32)
    return (value >> 8).float() * 2.0**-24  # 24 bits: all that float32 holds exactly


def _mix(value: Tensor) -> Tensor:
    """MurmurHash3's 32-bit finaliser, in int64 lanes."""
    value = ((value ^ (value >> 16)) * 0x85EBCA6B) & _MASK32
    value = ((value ^ (value >> 13)) * 0xC2B2AE35) & _MASK32
    return value ^ (value >> 16)


def top_logprobs(scores: Tensor, rows: list[int], num: int) -> tuple[Tensor, Tensor]:
    """Likeliest `num` tokens of some rows of raw scores [B, V]: logprobs [R, num] falling, token ids [R, num]."""
    values, ids = scores[rows].topk(min(num, scores.shape[1]))
    return values - scores.logsumexp(-1)[rows, None], ids
