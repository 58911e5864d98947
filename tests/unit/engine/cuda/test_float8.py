"""Numbers of 8 bits: every one of them read, and rounding at every place where it changes, as torch does."""

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton", reason="Triton is not installed")
import triton.language as tl

from worker.engine.cuda.float8 import from_float8, to_float8

TILE = 256
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@triton.jit
def _round(source: tl.tensor, result: tl.tensor, TILE: tl.constexpr) -> None:
    place = tl.program_id(0) * TILE + tl.arange(0, TILE)
    tl.store(result + place, to_float8(tl.load(source + place)))


@triton.jit
def _widen(source: tl.tensor, result: tl.tensor, TILE: tl.constexpr, INTERPRETED: tl.constexpr) -> None:
    place = tl.arange(0, TILE)
    wide = from_float8(tl.load(source + place), result.dtype.element_ty, INTERPRETED)
    tl.store(result + place, wide.to(result.dtype.element_ty))


def rounded(x: Tensor) -> Tensor:
    result = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    assert len(x) % TILE == 0
    _round[(len(x) // TILE,)](x, result, TILE=TILE)
    return result


def every_number(device: torch.device) -> Tensor:
    return torch.arange(256, dtype=torch.uint8, device=device).view(torch.float8_e4m3fn)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_every_number_is_read(device: torch.device, dtype: torch.dtype) -> None:
    result = torch.empty(256, dtype=dtype, device=device)
    _widen[(1,)](every_number(device), result, TILE=TILE, INTERPRETED=device.type == "cpu")
    torch.testing.assert_close(result, every_number(device).to(dtype), rtol=0, atol=0, equal_nan=True)


def test_rounding_changes_where_torchs_does(device: torch.device) -> None:
    """Every number, halfway between two, and the next float32 on either side of each."""
    numbers = every_number(device)[:127].float()
    places = torch.cat([numbers, (numbers[:-1] + numbers[1:]) / 2])
    far = torch.tensor(torch.inf, device=device)
    places = torch.cat([places, places.nextafter(far), places.nextafter(-far)])
    places = torch.cat([places, -places, places.new_zeros(-2 * len(places) % TILE)])

    result = rounded(places)

    assert torch.equal(result.view(torch.uint8), places.to(torch.float8_e4m3fn).view(torch.uint8))


def test_what_is_too_large_is_the_largest_and_no_number_stays_none(device: torch.device) -> None:
    x = torch.tensor([448.1, 464.1, 1e9, torch.inf, -449.0, -torch.inf, torch.nan, 0.0] * (TILE // 8), device=device)
    expected = torch.tensor([448.0] * 4 + [-448.0] * 2 + [torch.nan, 0.0], device=device)
    torch.testing.assert_close(rounded(x)[:8].float(), expected, rtol=0, atol=0, equal_nan=True)
