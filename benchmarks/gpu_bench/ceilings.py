"""What the device does at best: copying, multiplying matrices, launching kernels. Measured before any engine."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.engine.gemm import layer_shapes
from benchmarks.gpu_bench.limits import Peaks
from worker.engine.spec import Spec

_SECONDS_EACH = 0.2  # of repetition behind a figure
_NUM_GROUPS = 5  # the best of which counts
_NUM_LAUNCHES = 1000


@dataclass(frozen=True)
class Sizes:
    """What is measured with."""

    copy_bytes: int
    square: int
    tokens: tuple[int, ...]  # rows of the shapes' own products: of a decode step, of a prefill pass


LARGE = Sizes(copy_bytes=2 << 30, square=8192, tokens=(256, 8192))
SMALL = Sizes(copy_bytes=64 << 20, square=1024, tokens=(32, 256))


@dataclass(frozen=True)
class Product:
    """A matrix product [tokens, inner] x [out, inner]^T."""

    tokens: int
    out: int
    inner: int
    flops_per_second: float


@dataclass(frozen=True)
class Ceilings:
    """Of a device, in one dtype."""

    copy_bytes_per_second: float  # read and written bytes together
    launch_seconds: float  # of one tiny kernel among many
    products: tuple[Product, ...]

    @property
    def peaks(self) -> Peaks:
        """What the serial limit is made of."""
        return Peaks(self.copy_bytes_per_second, max(product.flops_per_second for product in self.products))


def measure_ceilings(specs: list[Spec], sizes: Sizes, *, device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Measure copying, a large square product, and each distinct product of the shapes."""
    square = (sizes.square, sizes.square, sizes.square)
    matrices = [shape for spec in specs for shape in [*layer_shapes(spec), (spec.vocab_size, spec.hidden_size)]]
    shapes = dict.fromkeys([square, *((tokens, *matrix) for matrix in matrices for tokens in sizes.tokens)])
    return Ceilings(
        copy_bytes_per_second=_copy_rate(sizes.copy_bytes, device),
        launch_seconds=_launch_seconds(device),
        products=tuple(_measure_product(*shape, device=device, dtype=dtype) for shape in shapes),
    )


def _copy_rate(num_bytes: int, device: torch.device) -> float:
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / best_seconds(lambda: target.copy_(source), device)


def _launch_seconds(device: torch.device) -> float:
    one = torch.zeros(1, device=device)

    def launch() -> None:
        for _ in range(_NUM_LAUNCHES):
            one.add_(1.0)

    return best_seconds(launch, device) / _NUM_LAUNCHES


@torch.inference_mode()
def _measure_product(tokens: int, out: int, inner: int, *, device: torch.device, dtype: torch.dtype) -> Product:
    # Of ones or zeros a GPU draws less power and keeps a higher clock than with numbers of a model.
    x = torch.randn(tokens, inner, device=device).to(dtype)
    weight = torch.randn(out, inner, device=device).to(dtype)
    seconds = best_seconds(lambda: F.linear(x, weight), device)
    return Product(tokens, out, inner, 2 * tokens * out * inner / seconds)


def best_seconds(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, the best of a few groups of calls; CUDA events time the device, not the host."""
    once = _seconds(function, 1, device)  # what is compiled or chosen on first use is done here
    once = min(once, _seconds(function, 1, device))
    calls = max(1, round(_SECONDS_EACH / _NUM_GROUPS / max(once, 1e-6)))
    return min(_seconds(function, calls, device) for _ in range(_NUM_GROUPS)) / calls


def _seconds(function: Callable[[], object], calls: int, device: torch.device) -> float:
    cuda: Any = torch.cuda  # its events are not typed
    if device.type != "cuda":
        began = time.perf_counter()
        for _ in range(calls):
            function()
        return time.perf_counter() - began
    start, end = (cuda.Event(enable_timing=True) for _ in range(2))
    cuda.synchronize(device)
    start.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    milliseconds: float = start.elapsed_time(end)
    return milliseconds / 1e3
