"""Two-level reductions: right, and the same bits for a row alone and among others."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from worker.engine.reductions import log_norm, row_argmax, row_sum

SIZES = [1, 63, 64, 65, 1000, 50_257]


@pytest.fixture
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def random(num_rows: int, num_tokens: int) -> Tensor:
    return torch.randn(num_rows, num_tokens, generator=torch.Generator().manual_seed(num_tokens))


@pytest.mark.parametrize("num_tokens", SIZES)
def test_reductions_equal_torchs(num_tokens: int) -> None:
    x = random(3, num_tokens)
    assert row_argmax(x).equal(x.argmax(-1))
    torch.testing.assert_close(row_sum(x).double(), x.double().sum(-1), atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(log_norm(x), x.logsumexp(-1))


def test_argmax_is_the_first_of_equals() -> None:
    x = torch.zeros(4, 200)
    x[1, [70, 71, 150]] = 2.0
    x[2, 199] = 3.0
    x[3] = -torch.inf
    assert row_argmax(x).tolist() == [0, 70, 199, 0]


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize("reduce", [row_sum, log_norm])
def test_a_row_alone_has_the_same_bits_on_two_threads(reduce: Callable[[Tensor], Tensor]) -> None:
    """torch sums one long row in two halves on two threads, but several rows whole."""
    x = random(16, 50_257)
    together = reduce(x)
    assert all(reduce(x[row : row + 1]).equal(together[row : row + 1]) for row in range(16))
