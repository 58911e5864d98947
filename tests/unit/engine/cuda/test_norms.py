"""Norms in one pass over memory against torch's."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from worker.engine.cuda.norms import PIECE_SCORES, add_rms_norm, log_norm, rms_norm

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SIZES = [1, 64, 80, 2560, 3584, 5120, 16384]
EPS = 1e-5


def random(*shape: int, seed: int = 0, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def plain_norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], weight, EPS)


def assert_rounded_alike(actual: Tensor, expected: Tensor) -> None:
    """Equal but for the last bit. The interpreter cuts bfloat16 off where others round."""
    assert actual.dtype == expected.dtype
    eps = torch.finfo(expected.dtype).eps
    torch.testing.assert_close(actual, expected, rtol=max(eps, 2e-6), atol=eps / 8)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("size", SIZES)
def test_norm_is_torchs(device: torch.device, size: int, dtype: torch.dtype) -> None:
    x, weight = (random(*shape, dtype=dtype, device=device) for shape in ((3, size), (size,)))
    assert_rounded_alike(rms_norm(x * 7, weight, EPS), plain_norm(x * 7, weight))


def test_norm_of_small_numbers_needs_its_epsilon(device: torch.device) -> None:
    x, weight = (random(*shape, dtype=torch.float32, device=device) for shape in ((3, 80), (80,)))
    assert_rounded_alike(rms_norm(x * 1e-3, weight, EPS), plain_norm(x * 1e-3, weight))


@pytest.mark.parametrize(
    "part",
    [
        lambda heads: heads[:, :3],
        lambda heads: heads[:, 2:5:2],
        lambda heads: heads[:, 1],
        lambda heads: heads[2, 1],
        lambda heads: heads.flip(0),
        lambda heads: heads.transpose(1, 2),
        lambda heads: heads[None, :, :3],
    ],
)
def test_norm_reads_parts_where_they_lie(device: torch.device, part: Callable[[Tensor], Tensor]) -> None:
    x = part(random(4, 5, 80, dtype=torch.float32, device=device))
    weight = random(x.shape[-1], dtype=torch.float32, device=device)

    result = rms_norm(x, weight, EPS)

    assert result.is_contiguous()
    assert_rounded_alike(result, plain_norm(x, weight))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("size", SIZES)
def test_sum_and_norm_of_it_are_torchs(device: torch.device, size: int, dtype: torch.dtype) -> None:
    x, delta = (random(3, size, seed=seed, dtype=dtype, device=device) for seed in (1, 2))
    weight = random(size, seed=3, dtype=dtype, device=device)

    total, normed = add_rms_norm(x, delta, weight, EPS)

    if dtype == torch.bfloat16 and device.type == "cpu":
        assert_rounded_alike(total, x + delta)
    else:
        assert torch.equal(total, x + delta)
    assert_rounded_alike(normed, plain_norm(total, weight))


def test_what_is_normed_is_the_rounded_sum(device: torch.device) -> None:
    """Between 2048 and 4096 float16 has even numbers only, so that nothing remains of the delta."""
    x, one = torch.full((2, 64), 2050.0, device=device).half(), torch.ones(64, device=device).half()
    delta = torch.linspace(-0.9, 0.9, 64, device=device).half().expand(2, 64)
    for result, expected in zip(add_rms_norm(x, delta, one, EPS), (x, torch.ones_like(x)), strict=True):
        assert torch.equal(result, expected)


def test_rows_to_add_may_lie_apart(device: torch.device) -> None:
    x, delta = (random(4, size, dtype=torch.float32, device=device)[:, 10:90] for size in (90, 240))
    weight = random(80, dtype=torch.float32, device=device)

    total, normed = add_rms_norm(x, delta, weight, EPS)

    assert torch.equal(total, x + delta)
    assert_rounded_alike(normed, plain_norm(x + delta, weight))


@pytest.mark.parametrize("vocabulary", [1, 107, PIECE_SCORES, PIECE_SCORES + 1, 128256])
def test_log_norm_is_torchs(device: torch.device, vocabulary: int) -> None:
    scores = random(3, vocabulary, dtype=torch.float32, device=device) * 20
    scores[1] += 1000
    torch.testing.assert_close(log_norm(scores), scores.logsumexp(-1), rtol=2e-6, atol=2e-6)


def test_log_norm_of_banned_scores(device: torch.device) -> None:
    """Whole pieces may be minus infinity."""
    scores = torch.full((2, 3 * PIECE_SCORES), -torch.inf, device=device)
    scores[0, 2 * PIECE_SCORES + 5], scores[1, :2] = 3.0, 4.0
    torch.testing.assert_close(log_norm(scores), torch.tensor([3.0, 4.0 + math.log(2)], device=device))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, of the interpreter
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [0, 2 * PIECE_SCORES])
def test_log_norm_shows_what_is_no_number(device: torch.device, place: int, bad: float) -> None:
    scores = random(2, 2 * PIECE_SCORES + 1, dtype=torch.float32, device=device)
    scores[1, place] = bad
    assert log_norm(scores).isnan().tolist() == [False, True]


def test_log_norm_has_the_same_bits_whoever_is_beside_a_row(device: torch.device) -> None:
    scores = random(5, 2 * PIECE_SCORES + 7, dtype=torch.float32, device=device) - 12
    scores[:, 5] = 0.0  # the result, near 0, shows each bit of the sum, near 1
    together = log_norm(scores)
    for row in range(5):
        assert torch.equal(log_norm(scores[row : row + 1]), together[row : row + 1])
