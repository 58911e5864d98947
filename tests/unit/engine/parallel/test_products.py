"""What splitting by outputs stands on: a slice of a product has the bits of the same columns of the whole product."""

import pytest
import torch

from worker.engine.linear import linear, packing_works, relay

ROWS = (16, 32, 48, 64, 96, 128, 512)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_ranks", [2, 3, 4])
@pytest.mark.parametrize(("outputs", "inputs"), [(48, 80), (180, 96), (2304, 768), (768, 2304)])
@torch.inference_mode()
def test_slice_has_the_bits_of_the_whole(dtype: torch.dtype, num_ranks: int, outputs: int, inputs: int) -> None:
    if not packing_works(dtype):
        pytest.skip("oneDNN's packed product is missing here")
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator).to(dtype)
    bias = torch.randn(outputs, generator=generator).to(dtype)
    whole, slices, biases = relay(weight), weight.chunk(num_ranks), bias.chunk(num_ranks)
    packed = [relay(piece.contiguous()) for piece in slices]
    for num_rows in ROWS:
        x = torch.randn(num_rows, inputs, generator=generator).to(dtype)
        pieces = [linear(x, piece, one.contiguous()) for piece, one in zip(packed, biases, strict=True)]
        assert torch.equal(torch.cat(pieces, -1), linear(x, whole, bias))
