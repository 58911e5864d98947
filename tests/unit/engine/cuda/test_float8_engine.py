"""The engine over keys and values of 8 bits, in Triton's interpreter, against the one whose cache is float32."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from benchmarks.kv_accuracy import round_to_fp8, score
from tests.unit.engine.models import tiny_llama
from tests.unit.engine.parallel.threads import start_thread
from worker.engine import Engine, Output, Request, SamplingParams
from worker.engine.cuda.pages import PAGE_TOKENS
from worker.engine.families import load_spec
from worker.engine.fast_paths import cuda_paths
from worker.engine.kv_cache import token_bytes
from worker.engine.kv_dtype import FP8
from worker.engine.loader import load_model
from worker.engine.parallel import follower, launch

# What 8 bits may do to a logprob here, teacher forced. Measured: 0.0125 at most, 0.003 on average.
LARGEST, MEAN = 0.03, 0.01
NUM_PAGES = 12
PROMPT = [3 + 7 * index % 60 for index in range(70)]
GREEDY = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True, prompt_logprobs=0)
Load = Callable[..., Engine]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_llama(folder, scale=2.0, vocab_size=64)
    return folder


@pytest.fixture
def load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load the engine as a GPU does, into the memory of NUM_PAGES pages of float32."""
    num_bytes = NUM_PAGES * PAGE_TOKENS * token_bytes(load_spec(folder), torch.float32)

    def load(**settings: object) -> Engine:
        with monkeypatch.context() as patch:
            patch.setattr("worker.engine.runner.choose_fast_paths", lambda spec, *_, **asked: cuda_paths(spec, **asked))
            patch.setattr("worker.engine.loader.packing_works", lambda _: False)
            patch.setattr("worker.engine.engine.cache_bytes", lambda *_, **__: num_bytes)
            return Engine.load(folder, rows=2, max_model_len=128, **settings)  # type: ignore[arg-type]

    return load


def logprobs_of(output: Output) -> torch.Tensor:
    """Of every token of prompt and answer but the first."""
    assert output.error is None
    assert output.prompt_details is not None
    scored = [token.logprob for token in output.prompt_details[1:]]
    return torch.tensor([*scored, *output.logprobs])


def test_logprobs_are_near_those_of_a_float32_cache(folder: Path, load: Load) -> None:
    """Teacher forced: the other engine is given the answer as the end of its prompt."""
    [found] = load(kv_dtype="fp8").generate([Request("r", PROMPT, params=GREEDY)])
    exact = Engine.load(folder, rows=2, max_model_len=128)
    [forced] = exact.generate([Request("r", [*PROMPT, *found.token_ids], params=GREEDY)])

    distance = (logprobs_of(found) - logprobs_of(forced)[: len(PROMPT) + 5]).abs()

    assert len(found.token_ids) == 6
    assert distance.max() < LARGEST
    assert distance.mean() < MEAN
    assert distance[: len(PROMPT) - 1].max() > 1e-4, "prompts are computed over 8 bits"
    assert distance[len(PROMPT) :].max() > 1e-4, "and so are answers"


def test_what_the_benchmark_measures_is_what_the_engine_does(folder: Path, load: Load) -> None:
    prompt = PROMPT[:20]
    [found] = load(kv_dtype="fp8").generate([Request("r", prompt, params=replace(GREEDY, max_tokens=1))])
    model = load_model(folder, device="cpu", dtype="float32")
    exact, _ = score(model, prompt, lambda x: x)
    rounded, _ = score(model, prompt, round_to_fp8)

    scored = logprobs_of(found)[:19]

    assert (scored - rounded).abs().max() < 2e-5
    assert (scored - exact).abs().mean() > 1e-3


def test_memory_holds_the_more_tokens(load: Load) -> None:
    """Four times those of float32, twice those of bfloat16."""
    engines = [load(), load(kv_dtype="fp8"), load(kv_dtype="fp8", dtype="bfloat16")]
    for engine in engines:
        engine._runner.cache.reserve(0, 1, 1)
    caches = [engine._runner.cache for engine in engines]
    assert [cache.budget_tokens // PAGE_TOKENS for cache in caches] == [NUM_PAGES, 4 * NUM_PAGES, 4 * NUM_PAGES]
    pages = [4 * (NUM_PAGES + 1), 4 * NUM_PAGES + 1, 4 * NUM_PAGES + 1]  # of 8 bits, page 0 among them
    assert [cache.num_bytes for cache in caches] == [
        number * PAGE_TOKENS * token_bytes(engines[0].spec, FP8) for number in pages
    ]


def test_bits_of_8_bits_have_a_name(load: Load) -> None:
    plain, small = load().info, load(kv_dtype="fp8").info
    assert "cache" not in plain.fast_paths
    assert small.fast_paths["cache"] == "fp8"
    assert small.fingerprint == f"{plain.fingerprint}-fp8"


def test_every_rank_keeps_8_bits(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    followers: list[follower.Follower] = []

    class Watched(follower.Follower):
        def __init__(self, rank: int) -> None:
            super().__init__(rank)
            followers.append(self)

    monkeypatch.setattr(follower, "Follower", Watched)
    monkeypatch.setattr(launch, "_start", start_thread)
    engine = load(kv_dtype="fp8", tensor_parallel=2)

    engine._runner.cache.reserve(0, 1, 1)

    [other] = followers
    caches: list[Any] = [engine._runner.cache, other._runner.cache]
    for cache in caches:
        assert {tensor.dtype for tensor in (*cache.k, *cache.v)} == {FP8}
