"""Matrix products alone: the best rate torch has, how much of it a run used, and what the law of the batch costs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.engine.ours import Span
from benchmarks.engine.timing import best_seconds
from worker.engine.linear import ROW_MULTIPLE, linear, pack, packing_works, round_up
from worker.engine.spec import Spec

_SQUARE = 2048
_PEAK_ROWS = 128
_NUM_COUNTS = 8  # row counts of a run that the cost of the law is measured at

Product = Callable[[Tensor], object]


@dataclass(frozen=True)
class LawCost:
    """Time over time, minus one, for the matrix products of a run's decode steps."""

    rounding: float  # the engine's product at rows rounded up, over the same at the exact number of rows
    whole: float  # the engine's product at rows rounded up, over torch's quickest at the exact number of rows


def layer_shapes(spec: Spec) -> list[tuple[int, int]]:
    """The (out, in) of one block's matrices."""
    return [
        (spec.qkv_size, spec.hidden_size),
        (spec.hidden_size, spec.q_size),
        (2 * spec.intermediate_size, spec.hidden_size),
        (spec.hidden_size, spec.intermediate_size),
    ]


def useful_flops(spec: Spec, span: Span) -> int:
    """Two per parameter and token in the blocks' matrices, and in the head for rows that sample; attention not."""
    layers = spec.num_layers * sum(out * inner for out, inner in layer_shapes(spec))
    return 2 * (layers * span.layer_tokens + spec.vocab_size * spec.hidden_size * span.head_rows)


@torch.inference_mode()
def peak_flops(spec: Spec, dtype: torch.dtype) -> float:
    """FLOPs per CPU second of the quickest of torch's products: a large square, and 128 rows of the model's own."""
    square = torch.randn(_SQUARE, _SQUARE).to(dtype)
    rates = [2 * _SQUARE**3 / best_seconds(lambda: square @ square)]
    for out, inner in [*layer_shapes(spec), (spec.vocab_size, spec.hidden_size)]:
        x, weight = torch.randn(_PEAK_ROWS, inner).to(dtype), torch.randn(out, inner).to(dtype)
        rates.append(2 * x.shape[0] * weight.numel() / _quickest(torch_products(weight), x))
    return max(rates)


def torch_products(weight: Tensor) -> list[Product]:
    """torch's ways to multiply by a weight [out, in]: as it is, and laid out by oneDNN where the build has that."""
    products: list[Product] = [lambda x: F.linear(x, weight)]
    if packing_works(weight.dtype):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, _PEAK_ROWS)
        products.append(lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""))
    return products


def _quickest(products: Sequence[Product], x: Tensor) -> float:
    return min(best_seconds(partial(product, x)) for product in products)


@torch.inference_mode()
def law_cost(spec: Spec, dtype: torch.dtype, live_counts: Sequence[int]) -> LawCost:
    """Multiply by one block's matrices and the head at row counts taken evenly from a run's decode steps."""
    counts = live_counts[:: -(-len(live_counts) // _NUM_COUNTS)]
    head = (spec.vocab_size, spec.hidden_size)
    totals = [0.0, 0.0, 0.0]
    for times, shape in [*((spec.num_layers, shape) for shape in layer_shapes(spec)), (1, head)]:
        for count in counts:
            for index, seconds in enumerate(_law_seconds(shape, dtype, count)):
                totals[index] += times * seconds
    rounded, exact, plain = totals
    return LawCost(rounding=rounded / exact - 1, whole=rounded / plain - 1)


def _law_seconds(shape: tuple[int, int], dtype: torch.dtype, count: int) -> tuple[float, float, float]:
    """Seconds of the engine's product at rows rounded up, of the same at the exact count, of torch's quickest there."""
    plain = torch.randn(shape).to(dtype)
    weight = pack(plain) if packing_works(dtype) else plain
    x = torch.randn(round_up(count, ROW_MULTIPLE), shape[1]).to(dtype)
    ours: list[Product] = [lambda x: linear(x, weight)]
    return _quickest(ours, x), _quickest(ours, x[:count]), _quickest(torch_products(plain), x[:count])
