"""SwiGLU in one pass over memory against the plain formula."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="Triton is not installed")

from worker.engine.cuda.activations import swiglu

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize(("num_rows", "size"), [(1, 1), (5, 37), (3, 1024), (2, 14336)])
def test_swiglu_is_torchs(device: torch.device, num_rows: int, size: int, dtype: torch.dtype) -> None:
    """But for the last bits: the interpreter cuts bfloat16 off where others round, twice here."""
    generator = torch.Generator().manual_seed(0)
    gate_up = (torch.randn(num_rows, 2 * size, generator=generator) * 5).to(device, dtype)
    gate, up = gate_up.chunk(2, -1)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(swiglu(gate_up), F.silu(gate) * up, rtol=max(2 * eps, 2e-6), atol=eps / 1024)


def test_silu_is_rounded_before_the_product(device: torch.device) -> None:
    """Rounded once, a quarter of the products would differ in the last bit."""
    gate_up = (torch.randn(4, 2000, generator=torch.Generator().manual_seed(0)) * 5).to(device).half()
    gate, up = gate_up.chunk(2, -1)
    assert (swiglu(gate_up) != F.silu(gate) * up).float().mean() < 0.01


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # numpy's, of the interpreter
def test_swiglu_of_gates_far_out(device: torch.device) -> None:
    gate_up = torch.tensor([[-1000.0, -90.0, 0.0, 1000.0, torch.nan, 2.0, 3.0, 4.0, 5.0, 6.0]], device=device)
    gate, up = gate_up.chunk(2, -1)
    torch.testing.assert_close(swiglu(gate_up), F.silu(gate) * up, equal_nan=True)


def test_swiglu_of_rows_that_lie_apart(device: torch.device) -> None:
    gate_up = torch.randn(4, 100, generator=torch.Generator().manual_seed(0)).to(device)[:, :74]
    torch.testing.assert_close(swiglu(gate_up), F.silu(gate_up[:, :37]) * gate_up[:, 37:])
