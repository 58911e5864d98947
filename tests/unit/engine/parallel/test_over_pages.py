"""A split model over pages, as on GPUs: each rank keeps its own, and pages run short on all ranks alike.

The kernels are replaced by their formulas, and the followers are threads.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

pytest.importorskip("triton", reason="Triton is not installed")

from tests.unit.engine.cuda.plain import use_plain_kernels
from tests.unit.engine.models import VOCAB_SIZE
from tests.unit.engine.parallel.threads import start_thread
from tests.unit.engine.parity import TINY, save_tiny
from worker.engine import Engine, Request, SamplingParams
from worker.engine.cuda.attention import PagedAttention
from worker.engine.cuda.cache import PagedCache
from worker.engine.cuda.pages import PAGE_TOKENS
from worker.engine.fast_paths import FastPaths
from worker.engine.kv_cache import token_bytes
from worker.engine.ops import TORCH_OPS
from worker.engine.parallel import follower, launch
from worker.engine.spec import Spec

CONFIG = LlamaConfig(**(TINY | {"num_hidden_layers": 2}))


def paged_paths(spec: Spec, *_: object, **__: object) -> FastPaths:
    return FastPaths(PagedAttention(spec), TORCH_OPS, {"attention": "paged", "operations": "torch"})


def load(folder: Path, *, num_pages: int, num_ranks: int) -> Engine:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worker.engine.runner.choose_fast_paths", paged_paths)
        whole = Engine.load(folder, rows=1, max_model_len=256).spec
        num_bytes = num_pages * PAGE_TOKENS * token_bytes(whole, torch.float32)
        patch.setattr("worker.engine.engine.cache_bytes", lambda *_, **__: num_bytes)
        return Engine.load(folder, rows=5, max_model_len=256, tensor_parallel=num_ranks)


def requests() -> list[Request]:
    """Prompts that begin alike, several answers, beams, and answers long enough to run out of pages."""
    common = [3 + index * 7 % (VOCAB_SIZE - 3) for index in range(PAGE_TOKENS + 5)]
    settings: list[dict[str, Any]] = [
        {"n": 2},
        {"use_beam_search": True, "best_of": 2, "temperature": 0.0},
        {},
        {"n": 3},
        {},
        {},
        {},
    ]
    params = [SamplingParams(**{"max_tokens": 70, "ignore_eos": True, "seed": 1, **some}) for some in settings]
    return [Request(str(index), [*common, 5 + index], params=some) for index, some in enumerate(params)]


@pytest.mark.parametrize("num_pages", [40, 7])
def test_ranks_that_run_short_of_pages_give_the_answers_of_one(
    num_pages: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_plain_kernels(monkeypatch)
    monkeypatch.setattr("worker.engine.cuda.cache.MARGIN_TOKENS", 1)
    monkeypatch.setattr(launch, "_start", start_thread)
    followers: list[follower.Follower] = []

    class Watched(follower.Follower):
        def __init__(self, rank: int) -> None:
            super().__init__(rank)
            followers.append(self)

    monkeypatch.setattr(follower, "Follower", Watched)
    save_tiny(tmp_path, CONFIG)
    expected = load(tmp_path, num_pages=num_pages, num_ranks=1).generate(requests())

    engine = load(tmp_path, num_pages=num_pages, num_ranks=2)
    outputs = engine.generate(requests())

    assert outputs == expected
    assert engine.stats()["prefix_hits"] > 0
    assert (engine.stats()["preemptions"] > 0) == (num_pages == 7)
    assert engine.stats()["oom_splits"] == 0
    theirs = followers[0]._runner.cache
    assert isinstance(theirs, PagedCache)
    ours: PagedCache = engine._runner.cache  # type: ignore[assignment] # what it is not asked for here it passes on
    assert (ours.pool.num_free, ours.pool.num_pages) == (theirs.pool.num_free, theirs.pool.num_pages)
