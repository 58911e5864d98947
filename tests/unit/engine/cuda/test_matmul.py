"""The reproducible product: torch's numbers, and bits that a row's neighbours and its place do not change."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from worker.engine.cuda.matmul import Tiles, choose_tiles, invariant_linear

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
IN, OUT = 200, 137  # leave remainders in every tile


def random(*shape: int, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize(
    ("num_rows", "in_features", "out_features"),
    [(1, 1, 1), (3, 17, 5), (64, 64, 128), (65, 129, 257), (7, 1000, 96), (600, 40, 70)],
)
def test_product_is_torchs(
    device: torch.device, num_rows: int, in_features: int, out_features: int, dtype: torch.dtype
) -> None:
    x = random(num_rows, in_features, seed=0, dtype=dtype, device=device)
    weight = random(out_features, in_features, seed=1, dtype=dtype, device=device)
    bias = random(out_features, seed=2, dtype=dtype, device=device)
    tolerance = max(torch.finfo(dtype).eps, 2e-6)
    exact = F.linear(x.double(), weight.double(), bias.double())

    result = invariant_linear(x, weight, bias)

    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), exact, rtol=tolerance, atol=tolerance * in_features**0.5)


def test_rows_may_lie_apart_and_have_no_bias(device: torch.device) -> None:
    x = random(5, 100, seed=0, dtype=torch.float32, device=device)[:, 10:50]
    weight = random(30, 40, seed=1, dtype=torch.float32, device=device)
    torch.testing.assert_close(invariant_linear(x, weight, None), F.linear(x, weight), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("num_rows", [3, 17, 64, 65])
def test_a_row_has_the_same_bits_alone_and_anywhere_among_others(
    device: torch.device, num_rows: int, dtype: torch.dtype
) -> None:
    x, others = (random(size, IN, seed=size, dtype=dtype, device=device) for size in (1, num_rows))
    weight = random(OUT, IN, seed=400, dtype=dtype, device=device)
    bias = random(OUT, seed=401, dtype=dtype, device=device)
    alone = invariant_linear(x, weight, bias)
    others[0] = torch.nan  # nor does it matter what others hold
    for place in {1, num_rows // 2, num_rows - 1}:
        among = others.clone()
        among[place] = x[0]
        assert torch.equal(invariant_linear(among, weight, bias)[place], alone[0])


@pytest.mark.parametrize(
    ("out_features", "dtype", "tiles"),
    [
        (128256, torch.bfloat16, Tiles(64, 128, 64)),
        (10240, torch.bfloat16, Tiles(64, 64, 64)),
        (4096, torch.float32, Tiles(64, 32, 32)),
        (40, torch.float16, Tiles(64, 32, 64)),
    ],
)
def test_small_results_are_cut_finer(out_features: int, dtype: torch.dtype, tiles: Tiles) -> None:
    assert choose_tiles(out_features, dtype) == tiles
