"""The parts of a draw, each in a kernel of its own, against the CPU's."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

import triton
import triton.language as tl

from worker.engine import randomness
from worker.engine.cuda.drawing import _passed, pick, uniform


@triton.jit
def _hash(seeds: Tensor, indices: Tensor, attempts: Tensor, out: Tensor, NUM: tl.constexpr) -> None:
    place = tl.arange(0, NUM)
    values = uniform(tl.load(seeds + place), tl.load(indices + place), tl.load(attempts + place))
    tl.store(out + place, values)


@triton.jit
def _pick(
    scores: Tensor, sums: Tensor, shares: Tensor, out: Tensor, last: int, num_tokens: int, TILES: tl.constexpr
) -> None:
    row = tl.program_id(0)
    every = tl.load(sums + tl.arange(0, TILES))
    share = tl.load(shares + row)
    token, _ = pick(scores, 0.0, 1.0, 0.0, last, every, share, 0, num_tokens, TILES)
    tl.store(out + row, token)


@triton.jit
def _find(cumulative: Tensor, weights: Tensor, target: float, out: Tensor, NUM: tl.constexpr) -> None:
    place = tl.arange(0, NUM)
    tl.store(out, _passed(tl.load(cumulative + place), tl.load(weights + place), target, NUM))


def picked(weights: Tensor, shares: list[float], *, sums: list[float], last: int | None = None) -> list[int]:
    """Pick a token for each share from one row's weights [V] before `last`, given what is held for their sums."""
    num_tokens = len(weights)
    out = torch.empty(len(shares), dtype=torch.int32, device=weights.device)
    given, targets = weights.new_tensor(sums), weights.new_tensor(shares)
    _pick[(len(shares),)](weights.log(), given, targets, out, last or num_tokens, num_tokens, TILES=len(sums))
    return list(out.tolist())


def test_numbers_are_those_of_the_cpu_to_the_bit(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    seeds = torch.randint(-(2**63), 2**63 - 1, (1024,), generator=generator)
    seeds[:4] = torch.tensor([0, 1, -1, 2**63 - 1])
    indices = torch.randint(0, 2**17, (1024,), generator=generator)
    attempts = torch.arange(1024) % 128
    expected = [
        float(randomness.uniform(seeds[i], indices[i], int(attempts[i])))  #
        for i in range(1024)
    ]

    out = torch.empty(1024, device=device)
    _hash[(1,)](seeds.to(device), indices.to(device), attempts.to(device), out, NUM=1024)

    assert out.tolist() == expected


def test_a_share_picks_the_token_that_passes_it(device: torch.device) -> None:
    weights = torch.tensor([0.125, 0.25, 0.5, 0.125], device=device)
    shares = [0.0, 0.12, 0.125, 0.374, 0.376, 0.874, 0.876]
    assert picked(weights, shares, sums=[1.0]) == [0, 0, 1, 1, 2, 2, 3]


def test_the_second_tile_is_picked_from_too(device: torch.device) -> None:
    weights = torch.zeros(8192, device=device)
    weights[[7, 4099, 8191]] = 0.25
    assert picked(weights, [0.3, 0.34, 0.7], sums=[0.25, 0.5]) == [7, 4099, 8191]


@pytest.mark.parametrize("excess", [0.9, 1.0, 1.1])
def test_no_rounding_reaches_a_token_without_weight(device: torch.device, excess: float) -> None:
    """The sums held may be more or less than the weights: what is behind the last weight is never drawn."""
    weights = torch.zeros(8192, device=device)
    weights[[30, 5000]] = 0.5
    assert picked(weights, [0.0, 1 - 2.0**-24, 1.0], sums=[0.5 * excess, 0.5 * excess]) == [30, 5000, 5000]


def test_sums_that_grow_where_no_weight_is_pick_nothing_there(device: torch.device) -> None:
    """A GPU adds in the order of a tree, so that a running sum may be a bit greater behind a token of weight 0."""
    weights = torch.tensor([0.0, 1.0, 0.0, 1.0], device=device)
    cumulative = torch.tensor([0.0, 1.0, 1.0 + 2.0**-23, 2.0], device=device)
    out = torch.empty(1, dtype=torch.int32, device=device)
    _find[(1,)](cumulative, weights, 1.0, out, NUM=4)
    assert out.item() == 3


def test_only_what_comes_before_is_picked(device: torch.device) -> None:
    weights = torch.full((10,), 0.0, device=device)
    weights[[2, 5, 7]] = 1e-30
    assert picked(weights, [0.0, 0.6, 1.0], sums=[3e-30], last=6) == [2, 5, 7]


def test_where_nothing_has_weight_the_maximum_is_taken(device: torch.device) -> None:
    assert picked(torch.zeros(10, device=device), [0.5], sums=[0.0]) == [0]
    assert picked(torch.full((10,), torch.nan, device=device), [0.5], sums=[torch.nan]) == [0]
