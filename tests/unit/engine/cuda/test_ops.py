"""The GPU's operations as one set, by the test that every such set must pass."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from worker.engine.cuda.ops import CudaOps
from worker.engine.native.ops import agree
from worker.engine.ops import TORCH_OPS, Ops


@pytest.mark.skipif(torch.cuda.is_available(), reason="it draws tensors on the CPU, which kernels on a GPU cannot read")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("reproducible", [False, True])
def test_operations_agree_with_torchs(dtype: torch.dtype, reproducible: bool) -> None:
    ops: Ops = CudaOps()
    assert agree(ops, dtype)


def test_addition_and_norm_agree_with_torchs(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    x, delta, weight = (torch.randn(shape, generator=generator).to(device) for shape in ((5, 80), (5, 80), (80,)))
    results = (ops.add_norm(x, delta, weight, 1e-5) for ops in (CudaOps(), TORCH_OPS))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)
