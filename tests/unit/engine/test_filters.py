"""Drawing by refusal against the sorted formula in float64."""

import pytest
import torch
from torch import Tensor

from worker.engine.filters import Limits, draw_within, is_refused, limits_of, mask_before, pick

NUM_TOKENS = 512


def weights_of(num_rows: int, num_tokens: int = NUM_TOKENS, *, scale: float = 3.0) -> Tensor:
    scores = torch.randn(num_rows, num_tokens, generator=torch.Generator().manual_seed(num_tokens)) * scale
    return (scores - scores.amax(-1, keepdim=True)).exp()


def limits(weights: Tensor, *, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Limits:
    num_rows = len(weights)
    return limits_of(
        weights,
        top_k=torch.full((num_rows,), top_k),
        top_p=torch.full((num_rows,), top_p),
        min_p=torch.full((num_rows,), min_p),
    )


def kept_tokens(row: Tensor, **settings: float) -> set[int]:
    """Ask of every token whether it stays."""
    weights = row.expand(len(row), -1).contiguous()
    bounds = limits(weights, **settings)  # type: ignore[arg-type]
    before = mask_before(weights, torch.arange(len(row)))
    kept = ~is_refused(before, weights, bounds) & (row >= bounds.floor)
    return set(kept.nonzero()[:, 0].tolist())


def kept_plainly(row: Tensor, *, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> set[int]:
    """Sort, cut at k, renormalise, keep while the mass before is <= p, drop what is less likely than min_p."""
    order = row.sort(descending=True, stable=True).indices.tolist()
    order = order[:top_k] if top_k else order
    probabilities = row[order].double()
    before = probabilities.cumsum(-1) - probabilities
    in_top_p = (before <= top_p * probabilities.sum()) | (top_p >= 1)
    in_min_p = row[order] >= torch.tensor(min_p)
    return {token for token, ok in zip(order, (in_top_p & in_min_p).tolist(), strict=True) if ok}


@pytest.mark.parametrize("min_p", [0.0, 0.01])
@pytest.mark.parametrize("top_k", [0, 1, 7, 64, 65, 300, 512, 600])
@pytest.mark.parametrize("top_p", [0.0, 0.3, 0.9, 0.999, 1.0])
def test_what_stays_equals_the_sorted_formula(top_k: int, top_p: float, min_p: float) -> None:
    for row in weights_of(3):
        expected = kept_plainly(row, top_k=top_k, top_p=top_p, min_p=min_p)
        assert kept_tokens(row, top_k=top_k, top_p=top_p, min_p=min_p) == expected


@pytest.mark.parametrize(("top_k", "top_p", "num"), [(5, 1.0, 5), (0, 0.0, 1), (0, 0.25, 17), (100, 0.5, 51)])
def test_ties_stay_in_order_of_id(top_k: int, top_p: float, num: int) -> None:
    row = torch.ones(64 if top_k < 64 else 128)
    assert kept_tokens(row, top_k=top_k, top_p=top_p) == set(range(num))


@pytest.mark.parametrize(
    "settings", [{"top_k": 6}, {"top_p": 0.8}, {"min_p": 0.3}, {"top_k": 9, "top_p": 0.7}, {"top_k": 70, "top_p": 0.9}]
)
def test_draws_follow_the_filtered_distribution(settings: dict[str, float]) -> None:
    num_draws = 20_000
    row = weights_of(1, 128, scale=1.0)[0]
    weights = row.expand(num_draws, -1).contiguous()
    bounds = limits(weights, **settings)  # type: ignore[arg-type]
    drawn = draw_within(weights, bounds, seed=torch.full((num_draws,), 3), index=torch.arange(num_draws))
    kept = sorted(kept_plainly(row, **settings))  # type: ignore[arg-type]
    expected = row[kept].double() / row[kept].double().sum() * num_draws
    counts = drawn.bincount(minlength=128)[kept].double()
    assert counts.sum() == num_draws
    freedom = len(kept) - 1
    assert ((counts - expected) ** 2 / expected).sum() < freedom + 4 * (2 * freedom) ** 0.5 + 8  # about 1 in 10,000


def test_flat_rows_end() -> None:
    """Every refusal must shrink the pool, also where all tokens are equal."""
    weights = torch.ones(3, 4096)
    bounds = limits_of(
        weights,
        top_k=torch.tensor([0, 1, 100]),
        top_p=torch.tensor([0.0, 1.0, 1.0]),
        min_p=torch.tensor([0.0, 0.0, 1.0]),
    )
    drawn = draw_within(weights, bounds, seed=torch.tensor([1, 2, 3]), index=torch.zeros(3, dtype=torch.int64))
    assert drawn[:2].tolist() == [0, 0]
    assert int(drawn[2]) < 100


def test_pick_stays_within_its_block_whatever_rounding_does() -> None:
    """A block's sum and the running sum within it may differ in their last bit; behind lie tokens without weight."""
    weights = torch.rand(5000, 128, generator=torch.Generator().manual_seed(0))
    weights[:, 37:64] = 0.0
    weights[:, 90:] = 0.0
    tokens = pick(weights, torch.full((5000,), 1 - 2.0**-24))
    first_block = weights[:, :64].sum(-1, dtype=torch.float64) / weights.sum(-1, dtype=torch.float64)
    near_border = pick(weights, first_block.float().nextafter(torch.tensor(0.0)))
    for drawn in (tokens, near_border):
        assert bool((weights.gather(1, drawn[:, None]) > 0).all())


@pytest.mark.parametrize("share", [0.0, 0.5, 1 - 2.0**-24])
def test_pick_never_takes_a_token_without_weight(share: float) -> None:
    weights = torch.zeros(2, 256)
    weights[0, [3, 200]] = torch.tensor([1.0, 1e-30])
    weights[1, [100, 101]] = 1e-40  # not even a normal float
    tokens = pick(weights, torch.full((2,), share)).tolist()
    assert tokens[0] == 3
    assert tokens[1] in (100, 101)
