"""From scores to chosen tokens: [B, V] operations only, no loop over rows, no sort of the vocabulary.

Each row's result depends on its own scores and settings alone, whatever its neighbours ask for. Order: penalties,
logit_bias, bad_words, allowed_token_ids, min_tokens' ban, temperature, top_k, top_p, min_p. Temperature 0 is argmax
after the bans.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from worker.engine.bans import Bans
from worker.engine.filters import draw_within, limits_of, pick
from worker.engine.ops import TORCH_OPS, Ops
from worker.engine.penalties import Penalties, replace_scores
from worker.engine.randomness import uniform
from worker.engine.reductions import pad_blocks, row_argmax

MAX_TOP_LOGPROBS = 20
# A CPU takes so many scores at a time, 8 MB that stay in its cache over the passes: 128 x 128k in half the time.
_CHUNK_SCORES = 2**21


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
    penalties: Penalties | None = None  # None: no row asks for penalties or biases
    bans: Bans | None = None  # None: no row asks for bans

    def take(self, rows: slice | Tensor) -> "SamplingState":
        """The settings of some of the rows, by range or by index."""
        return SamplingState(
            temperature=self.temperature[rows],
            top_k=self.top_k[rows],
            top_p=self.top_p[rows],
            min_p=self.min_p[rows],
            seed=self.seed[rows],
            generated=self.generated[rows],
            min_tokens=self.min_tokens[rows],
            stop_ids=self.stop_ids[rows],
            penalties=self.penalties and self.penalties.take(rows),
            bans=self.bans and self.bans.take(rows),
        )


@dataclass(frozen=True, slots=True)
class Features:
    """What any of the rows asks for; the rest is skipped. Skipping never changes a row that does not ask."""

    sampled: bool = False
    filtered: bool = False  # top_k, top_p or min_p
    min_tokens: bool = False


class Choose(Protocol):
    """A way to choose one token a row."""

    def __call__(
        self, scores: Tensor, changed: Tensor, state: SamplingState, features: Features, ops: Ops
    ) -> tuple[Tensor, Tensor]:
        """Choose from raw scores [B, V], changed by penalties and bans -> ids [B], logprobs [B] under the raw ones."""


def choose_by_torch(
    scores: Tensor, changed: Tensor, state: SamplingState, features: Features, ops: Ops
) -> tuple[Tensor, Tensor]:
    """See `Choose`. On any device; where rows are filtered, it asks the device which are to be drawn again."""
    tokens = row_argmax(changed)
    if features.sampled:
        tokens = torch.where(state.temperature > 0, draw(changed, state, features), tokens)
    return tokens, scores.gather(1, tokens[:, None])[:, 0] - ops.log_norm(scores)


def sample(
    scores: Tensor,
    state: SamplingState,
    features: Features,
    ops: Ops = TORCH_OPS,
    choose: Choose = choose_by_torch,
) -> tuple[Tensor, Tensor]:
    """Choose one token a row from raw scores [B, V] float32 -> token ids [B], logprobs [B] under the raw scores."""
    step = max(_CHUNK_SCORES // scores.shape[1], 1) if scores.device.type == "cpu" else len(scores)
    if step >= len(scores):
        return _sample(scores, state, features, ops, choose)
    chunks = [slice(start, start + step) for start in range(0, len(scores), step)]
    chosen = [_sample(scores[rows], state.take(rows), features, ops, choose) for rows in chunks]
    tokens, logprobs = zip(*chosen, strict=True)
    return torch.cat(tokens), torch.cat(logprobs)


def _sample(
    scores: Tensor, state: SamplingState, features: Features, ops: Ops, choose: Choose
) -> tuple[Tensor, Tensor]:
    changed = scores if state.penalties is None else state.penalties.apply(scores)
    if state.bans is not None:
        changed = state.bans.apply(changed)
    if features.min_tokens:
        changed = ban_stops(changed, state)
    return choose(scores, changed, state, features, ops)


def ban_stops(scores: Tensor, state: SamplingState) -> Tensor:
    """Forbid each row's stop tokens until it has generated min_tokens; gives a copy of scores [B, V]."""
    banned = scores.clone()
    ids = state.stop_ids.where((state.generated < state.min_tokens)[:, None], -1)
    replace_scores(banned, ids, torch.full_like(ids, -torch.inf, dtype=scores.dtype))
    return banned


def draw(scores: Tensor, state: SamplingState, features: Features) -> Tensor:
    """Draw a token id [B] from each row's tempered, filtered distribution by its counter."""
    sampled = state.temperature > 0
    x = pad_blocks(scores, -torch.inf)
    x = x - x.amax(-1, keepdim=True)  # <= 0, so no temperature overflows
    weights = x.div_(state.temperature.where(sampled, 1.0)[:, None]).exp_()  # [B, V], unnormalised, at most 1
    if features.filtered:
        limits = limits_of(
            weights,
            top_k=state.top_k.where(sampled, 0),
            top_p=state.top_p.where(sampled, 1.0),
            min_p=state.min_p.where(sampled, 0.0),
        )
        tokens = draw_within(weights, limits, seed=state.seed, index=state.generated)
    else:
        tokens = pick(weights, uniform(state.seed, state.generated))
    return tokens.clamp(max=scores.shape[1] - 1)  # only a row of NaNs gets there


def top_logprobs(scores: Tensor, rows: list[int], num: int, ops: Ops = TORCH_OPS) -> tuple[Tensor, Tensor]:
    """Likeliest `num` tokens of some rows of raw scores [B, V]: logprobs [R, num] falling, token ids [R, num]."""
    asking = scores[rows]
    values, ids = asking.topk(min(num, scores.shape[1]))
    return values - ops.log_norm(asking)[:, None], ids
