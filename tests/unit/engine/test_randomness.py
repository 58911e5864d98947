"""The counter: uniform, a function of seed and index, and seeds for further answers."""

import pytest
import torch

from worker.engine.randomness import derive_seed, uniform


def chi_square(draws: torch.Tensor, num_bins: int) -> float:
    counts = (draws * num_bins).long().bincount(minlength=num_bins).double()
    expected = len(draws) / num_bins
    return float(((counts - expected) ** 2 / expected).sum())


def test_uniform_is_uniform_and_a_function_of_seed_and_index() -> None:
    index = torch.arange(50000)
    draws = uniform(torch.full_like(index, 2**63 - 1), index)
    assert bool(((draws >= 0) & (draws < 1)).all())
    assert chi_square(draws, 50) < 95  # 49 degrees of freedom: 1 in 10,000
    assert torch.corrcoef(torch.stack([draws[1:], draws[:-1]]))[0, 1].abs() < 0.02
    seeds = uniform(index, torch.zeros_like(index))
    assert seeds.mean().item() == pytest.approx(0.5, abs=0.01)
    high = uniform(index << 32, torch.zeros_like(index))
    assert len(set(high.tolist())) > 49000


def test_a_second_attempt_draws_anew() -> None:
    index = torch.arange(50000)
    first, second = (uniform(torch.full_like(index, 7), index, attempt) for attempt in (0, 1))
    assert chi_square(second, 50) < 95
    assert torch.corrcoef(torch.stack([first, second]))[0, 1].abs() < 0.02


def test_the_first_answer_has_the_requests_seed() -> None:
    assert derive_seed(123, 0) == 123
    assert derive_seed(2**63 - 1, 0) == 2**63 - 1


def test_answers_have_seeds_of_their_own() -> None:
    seeds = [derive_seed(seed, answer) for seed in range(100) for answer in range(100)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(5, 3) == derive_seed(5, 3)
    draws = uniform(torch.tensor(seeds[1::100]), torch.zeros(100, dtype=torch.int64))  # answer 1 of each
    assert len(set(draws.tolist())) == 100
