"""The sampler against plain sorted formulas, row by row."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from worker.engine import sampling
from worker.engine.sampling import Features, SamplingState, keep_top, sample, top_logprobs, uniform

EVERYTHING = Features(sampled=True, filtered=True, min_p=True, min_tokens=True)


def scores_of(num_rows: int, num_tokens: int, *, scale: float = 3.0, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, num_tokens, generator=torch.Generator().manual_seed(seed)) * scale


def state_of(num_rows: int, **changes: object) -> SamplingState:
    settings: dict[str, object] = {
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "seed": 5,
        "generated": 0,
        "min_tokens": 0,
        "stop_ids": [-1],
    }
    values = {name: torch.tensor(value) for name, value in (settings | changes).items()}
    return SamplingState(**{name: value.expand(num_rows, *value.shape) for name, value in values.items()})


def state_at(state: SamplingState, index: int) -> SamplingState:
    return replace(state, generated=torch.full_like(state.generated, index))


def kept_plainly(row: Tensor, top_k: int, top_p: float) -> set[int]:
    """Sort, cut at k, renormalise, keep while the mass before is <= p."""
    order = row.sort(descending=True, stable=True).indices.tolist()
    order = order[:top_k] if top_k else order
    probabilities = row[order].double().softmax(-1).tolist()
    kept, before = set(), 0.0
    for token, probability in zip(order, probabilities, strict=True):
        if top_p < 1 and before > top_p:
            break
        kept.add(token)
        before += probability
    return kept


@pytest.mark.parametrize("top_k", [0, 1, 7, 40, 500])
@pytest.mark.parametrize("top_p", [0.0, 0.3, 0.9, 0.999, 1.0])
def test_keep_top_equals_sorted_formula(top_k: int, top_p: float) -> None:
    x = scores_of(6, 500)
    mask = keep_top(x, torch.full((6,), top_k), torch.full((6,), top_p))
    for row in range(6):
        assert set(mask[row].nonzero()[:, 0].tolist()) == kept_plainly(x[row], top_k, top_p)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.5), (0, 0.9), (200, 1.0), (300, 0.7), (0, 1.0), (1000, 0.3)])
def test_keep_top_searches_the_vocabulary_where_candidates_do_not_reach(
    monkeypatch: pytest.MonkeyPatch, top_k: int, top_p: float
) -> None:
    monkeypatch.setattr(sampling, "_NUM_CANDIDATES", (4, 16))
    x = scores_of(4, 1000, scale=0.5)
    mask = keep_top(x, torch.full((4,), top_k), torch.full((4,), top_p))
    for row in range(4):
        assert set(mask[row].nonzero()[:, 0].tolist()) == kept_plainly(x[row], top_k, top_p)


@pytest.mark.parametrize("candidates", [(4,), (64,)])
def test_ties_are_kept_in_order_of_id(monkeypatch: pytest.MonkeyPatch, candidates: tuple[int, ...]) -> None:
    monkeypatch.setattr(sampling, "_NUM_CANDIDATES", candidates)
    x = torch.zeros(3, 64)
    mask = keep_top(x, torch.tensor([5, 0, 0]), torch.tensor([1.0, 0.0, 0.25]))
    assert [row.nonzero()[:, 0].tolist() for row in mask] == [list(range(5)), [0], list(range(17))]


def test_filters_of_one_row_leave_others_alone() -> None:
    x = scores_of(3, 300)
    top_k, top_p = torch.tensor([0, 3, 0]), torch.tensor([1.0, 1.0, 0.5])
    together = keep_top(x, top_k, top_p)
    for row in range(3):
        assert together[row].equal(keep_top(x[row : row + 1], top_k[row : row + 1], top_p[row : row + 1])[0])
    assert bool(together[0].all())


def test_temperature_zero_is_the_first_maximum() -> None:
    scores = torch.tensor([[0.0, 2.0, 2.0, 1.0]]).expand(2, 4)
    tokens, logprobs = sample(scores, state_of(2, temperature=0.0, top_k=3), EVERYTHING)
    assert tokens.tolist() == [1, 1]
    assert logprobs.tolist() == pytest.approx([scores[0].log_softmax(-1)[1].item()] * 2)


def test_top_p_zero_is_argmax() -> None:
    scores = scores_of(8, 100)
    tokens, _ = sample(scores, state_of(8, top_p=0.0, temperature=2.0), EVERYTHING)
    assert tokens.equal(scores.argmax(-1))


def test_min_p_drops_unlikely_tokens() -> None:
    scores = torch.tensor([[5.0, 4.9, 0.0, -1.0]])
    state = state_of(1, min_p=0.5, temperature=1.0)
    drawn = {int(sample(scores, state_at(state, index), EVERYTHING)[0]) for index in range(200)}
    assert drawn == {0, 1}


def test_draws_follow_the_distribution() -> None:
    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(20000, 4)
    state = replace(state_of(20000), generated=torch.arange(20000))
    tokens, _ = sample(scores, state, Features(sampled=True))
    shares = tokens.bincount(minlength=4) / 20000
    assert shares.tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.015)


@pytest.mark.parametrize("temperature", [1e-30, 1e-4])
def test_tiny_temperatures_are_argmax(temperature: float) -> None:
    scores = scores_of(4, 50, scale=100.0)
    tokens, _ = sample(scores, state_of(4, temperature=temperature), Features(sampled=True))
    assert tokens.equal(scores.argmax(-1))


def test_stop_tokens_wait_for_min_tokens() -> None:
    scores = torch.tensor([[9.0, 8.0, 1.0]]).expand(3, 3)
    state = state_of(3, temperature=0.0, stop_ids=[0, 1], min_tokens=2)
    early = sample(scores, state, EVERYTHING)[0].tolist()
    late = sample(scores, state_at(state, 2), EVERYTHING)[0].tolist()
    assert (early, late) == ([2, 2, 2], [0, 0, 0])


def test_rows_without_stops_ban_nothing() -> None:
    scores = torch.tensor([[9.0, 8.0, 1.0]])
    state = state_of(1, temperature=0.0, stop_ids=[-1, -1], min_tokens=2)
    assert sample(scores, state, EVERYTHING)[0].tolist() == [0]


def test_rows_of_nan_raise_nothing() -> None:
    scores = torch.full((2, 2000), torch.nan)
    scores[1] = 0.0
    tokens, logprobs = sample(scores, state_of(2, top_p=0.5), EVERYTHING)
    assert 0 <= int(tokens[0]) < 2000
    assert logprobs.isfinite().tolist() == [False, True]


def test_uniform_is_uniform_and_a_function_of_seed_and_index() -> None:
    index = torch.arange(50000)
    draws = uniform(torch.full_like(index, 2**63 - 1), index)
    assert bool(((draws >= 0) & (draws < 1)).all())
    counts = (draws * 50).long().bincount(minlength=50).double()
    assert ((counts - 1000) ** 2 / 1000).sum() < 95  # chi square, 49 degrees of freedom: 1 in 10,000
    assert torch.corrcoef(torch.stack([draws[1:], draws[:-1]]))[0, 1].abs() < 0.02
    seeds = uniform(index, torch.zeros_like(index))
    assert seeds.mean().item() == pytest.approx(0.5, abs=0.01)
    high = uniform(index << 32, torch.zeros_like(index))
    assert len(set(high.tolist())) > 49000


def test_top_logprobs_of_some_rows() -> None:
    scores = scores_of(5, 30)
    values, ids = top_logprobs(scores, [1, 4], 3)
    expected = scores[[1, 4]].log_softmax(-1).topk(3)
    torch.testing.assert_close(values, expected.values)
    assert ids.equal(expected.indices)
