"""The figures that have targets, and what they are computed from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from benchmarks.engine.gemm import law_cost, peak_flops, useful_flops
from benchmarks.engine.ours import Ours, whole_run
from benchmarks.engine.peers import GENERATE
from benchmarks.engine.prefix import PrefixGain
from benchmarks.engine.timing import Result
from benchmarks.engine.work import OUTPUT_TOKENS, PROMPT_TOKENS, Work
from worker.engine.kv_cache import token_bytes
from worker.engine.spec import Spec


@dataclass(frozen=True)
class Figure:
    """A measured number beside what it should be. Without a value it could not be measured; the remark says why."""

    name: str
    value: float | None
    unit: Literal["times", "share", "GFLOP/s"]
    at_least: float | None = None
    at_most: float | None = None
    remark: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target or a value."""
        if self.value is None or (self.at_least is None and self.at_most is None):
            return None
        low, high = self.at_least, self.at_most
        return (low is None or self.value >= low) and (high is None or self.value <= high)


def peer_figures(ours: Result, peers: Sequence[Result]) -> list[Figure]:
    """Our generated tokens per CPU second over those of generate as users call it, and of the quickest peer."""
    by_name = {peer.name: ours.tokens_per_second / peer.tokens_per_second for peer in peers}
    best = min(by_name, key=lambda name: by_name[name], default=None)
    return [
        Figure("over Hugging Face generate", by_name.get(GENERATE), "times", at_least=4.0),
        Figure("over the best peer", by_name[best] if best else None, "times", at_least=3.0, remark=best or "no peer"),
    ]


def gemm_figures(spec: Spec, dtype: torch.dtype, ours: Ours, work: Sequence[Work], result: Result) -> list[Figure]:
    """Useful FLOPs per CPU second over the peak of torch's matrix products: with a full queue, and in the whole run."""
    peak = peak_flops(spec, dtype)
    whole, full = whole_run(work, result.cpu_seconds), ours.full_queue()
    share = useful_flops(spec, full) / full.cpu_seconds / peak if full else None
    remark = f"{full.cpu_seconds:.1f} CPU s of it" if full else "there were no more jobs than rows"
    return [
        Figure("torch's best matrix product", peak / 1e9, "GFLOP/s"),
        Figure("useful share of it, full queue", share, "share", at_least=0.60, remark=remark),
        Figure("useful share of it, whole run", useful_flops(spec, whole) / whole.cpu_seconds / peak, "share"),
    ]


def sampling_figure(ours: Ours, wall_seconds: float) -> Figure:
    """Seconds of sampling over those of the run."""
    seconds = ours.counted("sampling_seconds")
    share = None if seconds is None else seconds / wall_seconds
    remark = "the engine does not count it" if seconds is None else ""
    return Figure("sampling, of the run", share, "share", at_most=0.08, remark=remark)


def cache_figure(spec: Spec, dtype: torch.dtype, ours: Ours) -> Figure:
    """Most bytes of the KV cache over rows x the longest job that the work may hold x bytes of a token."""
    width = PROMPT_TOKENS[1] + OUTPUT_TOKENS[1]
    formula = ours.engine.info.rows * width * token_bytes(spec, dtype)
    remark = f"{ours.engine.info.rows} rows x {width} tokens x {token_bytes(spec, dtype)} bytes"
    return Figure("KV cache over its formula", ours.peak_cache_bytes() / formula, "times", at_most=1.02, remark=remark)


def law_figures(spec: Spec, dtype: torch.dtype, ours: Ours) -> list[Figure]:
    """What the law of the batch costs the matrix products, at row counts that the run had."""
    cost = law_cost(spec, dtype, ours.live_counts())
    return [
        Figure("cost of rounding rows to 16", cost.rounding, "share", at_most=0.03, remark="of the matrix products"),
        Figure("cost against torch's quickest", cost.whole, "share", remark="the same at the exact number of rows"),
    ]


def prefix_figure(gain: PrefixGain | None, why_not: str) -> Figure:
    """CPU seconds of unshared over shared prefixes."""
    remark = f"{gain.equal_answers} of {gain.num_jobs} answers bit-equal" if gain else why_not
    return Figure("shared prefix over unshared", gain.ratio if gain else None, "times", at_least=5.0, remark=remark)
