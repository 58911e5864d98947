"""Activations: torch's own values, and the law of the batch under any number of threads."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worker.engine.activation import gelu_tanh, swiglu


@pytest.fixture(params=[1, 3, 5])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1000, 333, 2])
@pytest.mark.parametrize("activation", [swiglu, gelu_tanh])
def test_bits_do_not_depend_on_place(activation: Callable[[Tensor], Tensor], width: int, dtype: torch.dtype) -> None:
    """Three threads on 1,040 rows once cut SwiGLU's elements mid-row: the tokens at the cuts had other last bits."""
    generator = torch.Generator().manual_seed(0)
    x = (4 * torch.randn(2064, 2 * width, generator=generator)).to(dtype)
    with torch.inference_mode():
        whole = activation(x)
        for count in (16, 112, 208, 1040):
            rows = torch.randperm(len(x), generator=generator)[:count]
            assert activation(x[rows]).equal(whole[rows])


def test_values_are_torchs_in_inference_and_training() -> None:
    x = torch.randn(48, 34, generator=torch.Generator().manual_seed(0))
    gate, up = x.chunk(2, -1)
    torch.testing.assert_close(swiglu(x), F.silu(gate) * up)
    torch.testing.assert_close(gelu_tanh(x), F.gelu(x, approximate="tanh"))
    with torch.inference_mode():
        torch.testing.assert_close(swiglu(x), F.silu(gate) * up)
