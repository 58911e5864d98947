"""One model in one dtype: our engine, its peers on the same work, and the figures."""

import gc
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.engine import figures
from benchmarks.engine.figures import Figure
from benchmarks.engine.ours import Ours
from benchmarks.engine.peers import PEERS, why_not
from benchmarks.engine.prefix import can_share, measure_prefix
from benchmarks.engine.shares import shares_by_module
from benchmarks.engine.timing import Result, mean, measure
from benchmarks.engine.work import SHAPES, Decode, Work, make_warm_up, make_work, save_model
from worker.engine import Engine
from worker.engine.info import EngineInfo
from worker.engine.spec import Spec

OURS = "batchmill"
_PROFILED_NEW_TOKENS = 48  # of each job in the run that only looks where the time goes


@dataclass(frozen=True)
class Options:
    """How much is measured."""

    peers: Sequence[str]
    num_jobs: int
    rows: int | None
    num_prefix_jobs: int


@dataclass(frozen=True)
class Compared:
    """A result, and how many of its answers are ours token for token."""

    result: Result
    equal_answers: int


@dataclass(frozen=True)
class Case:
    """All that was measured of one model in one dtype."""

    shape: str
    info: EngineInfo
    num_jobs: int
    results: list[Compared]  # ours first
    skipped: dict[str, str]  # peer -> why
    figures: list[Figure]
    shares: dict[str, float]  # engine module -> share of its run


def run_case(shape: str, dtype: str, options: Options) -> Case:
    """Measure our engine before and after its peers, as a machine's speed drifts; the mean of both counts."""
    spec = SHAPES[shape]
    work = make_work(spec, options.num_jobs, seed=1)
    with tempfile.TemporaryDirectory(prefix="batchmill-bench-") as name:
        folder = Path(name)
        save_model(folder, spec)
        ours = Ours(Engine.load(folder, rows=options.rows, device="cpu", dtype=dtype))
        first, answers = warm_and_measure(OURS, ours, spec, work)
        skipped = {peer: reason for peer in options.peers if (reason := why_not(peer))}
        peers = [
            run_peer(peer, folder, spec, dtype, work=work, answers=answers)
            for peer in options.peers
            if peer not in skipped
        ]
        last, again = measure(OURS, ours, work)
        result = mean(first, last)
        equal = sum(a == b for a, b in zip(answers, again, strict=True))
        found = [
            *figures.peer_figures(result, [peer.result for peer in peers]),
            *engine_figures(spec, getattr(torch, dtype), ours, work, last),
            run_prefix(folder, spec, dtype, options.num_prefix_jobs),
        ]
        shares = shares_by_module(
            ours, [Work(item.prompt, min(item.num_new_tokens, _PROFILED_NEW_TOKENS)) for item in work]
        )
    return Case(shape, ours.engine.info, len(work), [Compared(result, equal), *peers], skipped, found, shares)


def warm_and_measure(name: str, decode: Decode, spec: Spec, work: Sequence[Work]) -> tuple[Result, list[list[int]]]:
    """Run a few short jobs first, uncounted."""
    decode(make_warm_up(spec))
    return measure(name, decode, work)


def run_peer(
    name: str, folder: Path, spec: Spec, dtype: str, *, work: Sequence[Work], answers: list[list[int]]
) -> Compared:
    """Load a peer, measure it and let it go."""
    result, tokens = warm_and_measure(name, PEERS[name](folder, spec, dtype), spec, work)
    gc.collect()  # the next one needs the memory
    return Compared(result, sum(a == b for a, b in zip(answers, tokens, strict=True)))


def engine_figures(spec: Spec, dtype: torch.dtype, ours: Ours, work: Sequence[Work], result: Result) -> list[Figure]:
    """What our engine's latest run says of itself."""
    return [
        *figures.gemm_figures(spec, dtype, ours, work, result),
        figures.sampling_figure(ours, result.wall_seconds),
        figures.cache_figure(spec, dtype, ours),
        *figures.law_figures(spec, dtype, ours),
    ]


def run_prefix(folder: Path, spec: Spec, dtype: str, num_jobs: int) -> Figure:
    """Measure shared prefixes where asked for and possible."""
    if num_jobs == 0:
        return figures.prefix_figure(None, "not asked for")
    if not can_share():
        return figures.prefix_figure(None, "Engine.load has no prefix_sharing to turn off")
    return figures.prefix_figure(measure_prefix(folder, spec, dtype, num_jobs), "")
