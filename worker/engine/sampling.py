"""From scores to chosen tokens: [B, V] operations only, no loop over rows, no sort of the vocabulary.

Each row's result depends on its own scores and settings alone, whatever its neighbours ask for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

MAX_TOP_LOGPROBS = 20
# How many of the likeliest tokens are searched for the filters' end, in turn, before the whole vocabulary is: 64 cost
# a sixth of 1024 and are nearly always enough.
_NUM_CANDIDATES = (64, 1024)
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
    tokens = allowed.max(-1).indices  # the first of equals, as argmax gives, in a third of its time
    if features.sampled:
        tokens = torch.where(state.temperature > 0, draw(allowed, state, features), tokens)
    return tokens, scores.gather(1, tokens[:, None])[:, 0] - log_norm(scores)


def log_norm(scores: Tensor) -> Tensor:
    """Log of the sum of exponentials of each row [B]; logsumexp in fewer passes, for rows with a finite maximum."""
    highest = scores.amax(-1, keepdim=True)
    return (scores - highest).exp_().sum(-1).log() + highest[:, 0]


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
    threshold = torch.full_like(top_p, -torch.inf)
    num_ties = torch.zeros_like(num_top)
    searches: list[Callable[[Tensor, Tensor, Tensor], Cut]]
    searches = [*(partial(_search_candidates, num) for num in _NUM_CANDIDATES), _search_vocabulary]
    open_rows = (~unlimited | (top_p < 1)).nonzero()[:, 0]
    for search in searches:
        if len(open_rows) == 0:
            break
        found = search(x[open_rows], num_top[open_rows], top_p[open_rows])
        threshold[open_rows], num_ties[open_rows] = found.threshold, found.num_ties
        open_rows = open_rows[~found.final]
    equal = x == threshold[:, None]
    return (x > threshold[:, None]) | (equal & (equal.cumsum(-1) <= num_ties[:, None]))


@dataclass(frozen=True, slots=True)
class Cut:
    """Where the kept tokens of some rows end."""

    threshold: Tensor  # [B] float32, the last kept score
    num_ties: Tensor  # [B] int64, how many tokens equal to it stay
    final: Tensor  # [B] bool; False: the end lies further out


def _search_candidates(num: int, x: Tensor, num_top: Tensor, top_p: Tensor) -> Cut:
    """Look for each row's end among its `num` likeliest tokens."""
    top = x.topk(min(num, x.shape[1])).values  # [B, K], falling
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
    return Cut(threshold, num_ties, final=limited | (num_kept < top.shape[1]))


def _search_vocabulary(x: Tensor, num_top: Tensor, top_p: Tensor) -> Cut:
    """Look for each row's end in the whole vocabulary: bisect the value axis, first by count, then by mass."""
    by_count = _lowest(x, lambda level: (x > level[:, None]).sum(-1) < num_top)
    ties_by_count = num_top - (x > by_count[:, None]).sum(-1)
    equal = x == by_count[:, None]
    in_top_k = (x > by_count[:, None]) | (equal & (equal.cumsum(-1) <= ties_by_count[:, None]))
    mass = x.where(in_top_k, -torch.inf).softmax(-1)

    def mass_above(level: Tensor) -> Tensor:
        return (mass * (x > level[:, None])).sum(-1)

    by_mass = _lowest(x, lambda level: mass_above(level) <= top_p)
    each = mass.where(x == by_mass[:, None], 0.0).amax(-1)
    ties_by_mass = ((top_p - mass_above(by_mass)) / each).floor().clamp(max=x.shape[1]).long() + 1
    cut_by_mass = (top_p < 1) & (by_mass >= by_count)
    num_ties = ties_by_mass.minimum(ties_by_count.where(by_mass == by_count, x.shape[1]))
    return Cut(
        threshold=by_mass.where(cut_by_mass, by_count),
        num_ties=num_ties.where(cut_by_mass, ties_by_count),
        final=torch.ones_like(cut_by_mass),
    )


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
    return values - log_norm(scores)[rows, None], ids
