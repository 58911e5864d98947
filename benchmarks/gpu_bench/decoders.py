"""What is common to all engines measured: how they are called, opened, and what a device tells of them."""

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch

from benchmarks.engine.work import Work
from benchmarks.gpu_bench.workloads import Workload


class Decoder(Protocol):
    """An engine that is loaded."""

    @property
    def refills(self) -> bool:
        """Whether a row that ended is filled again at once, or only when its whole batch has ended."""

    @property
    def remark(self) -> str:
        """What a reader of its figures should know."""

    def __call__(self, requests: Sequence[Work]) -> list[list[int]]:
        """Give the generated tokens of each request, greedily chosen, all asked for."""


# Opened for a workload, so that it may choose its rows and memory for it; closed, it gives its memory back.
OpenDecoder = Callable[[Workload], AbstractContextManager[Decoder]]


@dataclass(frozen=True)
class Timed:
    """A call's answers and wall seconds, the device's work included."""

    tokens: list[list[int]]
    seconds: float


def run_timed(decoder: Decoder, requests: Sequence[Work], device: torch.device) -> Timed:
    """Call an engine. Raises RuntimeError where it gave another number of tokens than was asked for."""
    synchronize(device)
    began = time.perf_counter()
    tokens = decoder(requests)
    synchronize(device)
    seconds = time.perf_counter() - began
    if [len(ids) for ids in tokens] != [item.num_new_tokens for item in requests]:
        raise RuntimeError("an engine did not generate as many tokens as asked for")
    return Timed(tokens, seconds)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def release_memory(device: torch.device) -> None:
    """Give back what nobody holds any more, and count the peak from here on."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    """Most memory that torch had allocated on a GPU since `release_memory`; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
