"""The engine over pages, on a CPU: the same answers as over slots, whoever shares the rows and however few pages.

Where kernels run, in Triton's interpreter, the work is small; where the bookkeeping is on trial they are replaced by
their formulas.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen3Config

pytest.importorskip("triton", reason="Triton is not installed")

from tests.unit.engine.cuda.plain import use_plain_kernels
from tests.unit.engine.models import VOCAB_SIZE
from tests.unit.engine.parity import save_tiny
from worker.engine import Engine, Output, Request, SamplingParams
from worker.engine.cuda.attention import PagedAttention
from worker.engine.cuda.cache import PagedCache
from worker.engine.cuda.pages import PAGE_TOKENS
from worker.engine.fast_paths import FastPaths
from worker.engine.kv_cache import token_bytes
from worker.engine.ops import TORCH_OPS
from worker.engine.spec import Spec
from worker.engine.types import RowError

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT2 = GPT2Config(
    vocab_size=VOCAB_SIZE, n_embd=32, n_layer=2, n_head=2, n_positions=512, bos_token_id=1, eos_token_id=2
)
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "qwen3": Qwen3Config(**SIZES),
    "window": MistralConfig(**SIZES, sliding_window=24),
    "gpt2": GPT2,
}
GREEDY = SamplingParams(max_tokens=4, temperature=0.0)
Load = Callable[..., Engine]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            save_tiny(made[name], CONFIGS[name])
        return made[name]

    return folder


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load an engine over so many pages, at least what the longest row takes."""

    def load(folder: Path, *, pages: int = 40, max_model_len: int = 320, **settings: object) -> Engine:
        with monkeypatch.context() as patch:
            patch.setattr("worker.engine.runner.choose_fast_paths", paged_paths)
            patch.setattr("worker.engine.engine.cache_bytes", lambda *_, **__: pages * PAGE_TOKENS * 2 * 2 * 2 * 16 * 4)
            engine = Engine.load(folder, max_model_len=max_model_len, **settings)  # type: ignore[arg-type]
        assert token_bytes(engine.spec, torch.float32) == 2 * 2 * 2 * 16 * 4
        return engine

    return load


def paged_paths(spec: Spec, *_: object, **__: object) -> FastPaths:
    """Pages with everything else as on a CPU, so that the answers of the two are comparable."""
    return FastPaths(PagedAttention(spec), TORCH_OPS, {"attention": "paged", "operations": "torch"})


def cache_of(engine: Engine) -> PagedCache:
    cache = engine._runner.cache
    assert isinstance(cache, PagedCache)
    return cache


def prompt(seed: int, length: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(3, VOCAB_SIZE) for _ in range(length)]


def answers(outputs: Sequence[Output]) -> list[list[list[int]]]:
    assert all(output.error is None for output in outputs)
    return [[completion.token_ids for completion in output.completions] for output in outputs]


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    use_plain_kernels(monkeypatch)


def all_pages_are_free(engine: Engine) -> bool:
    engine._prefill.forget()
    pool = cache_of(engine).pool
    return pool.num_free == pool.num_pages


@pytest.mark.parametrize("name", CONFIGS)
def test_the_kernels_give_the_answers_of_the_cpus(folders: Callable[[str], Path], load: Load, name: str) -> None:
    """Of a row that comes to a new page, and of one beside it, whose bits are those of it alone."""
    lengths = (62, 3) if name == "llama" else (30, 3)
    requests = [Request(str(length), prompt(length, length), params=GREEDY) for length in lengths]
    expected = Engine.load(folders(name), rows=3).generate(requests)

    engine = load(folders(name), rows=3)
    outputs = engine.generate(requests)

    assert engine.info.fast_paths["attention"] == "paged"
    assert answers(outputs) == answers(expected)
    for output, other in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output.logprobs, other.logprobs, atol=1e-4, rtol=0)
    assert engine.generate(requests[1:]) == outputs[1:]


def mixed_requests(num: int, *, longest: int = 70, max_tokens: int = 90) -> list[Request]:
    """Several answers, beams, settings of sampling, prompts that begin alike, and contexts that move on."""
    rng = random.Random(num)
    instruction = prompt(0, 150)
    requests = []
    for index in range(num):
        ids = instruction[: rng.choice([0, 0, 64, 150])] + prompt(index, rng.randint(1, longest))
        params = SamplingParams(max_tokens=rng.randint(1, max_tokens), temperature=1.0, seed=index, ignore_eos=True)
        kind = rng.randrange(5)
        if kind == 0:
            params = replace(params, n=3)
        elif kind == 1:
            params = replace(params, temperature=0.0, n=2, best_of=3, use_beam_search=True)
        elif kind == 2:
            params = replace(params, context_overflow="crop", n=2, max_tokens=150)
        requests.append(Request(str(index), ids, params=params, owner=rng.choice(["a", "b"])))
    return requests


@pytest.mark.usefixtures("plain")
def test_any_mix_has_the_answers_of_slots(folders: Callable[[str], Path], load: Load) -> None:
    requests = mixed_requests(12)
    expected = Engine.load(folders("llama"), rows=5, max_model_len=320).generate(requests)

    engine = load(folders("llama"), rows=5, pages=99)

    assert answers(engine.generate(requests)) == answers(expected)
    assert engine.stats()["prefix_hits"] > 0
    assert engine.stats()["preemptions"] == 0
    assert all_pages_are_free(engine)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("pages", [5, 7])
def test_few_pages_change_no_answer(
    folders: Callable[[str], Path], load: Load, pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which 5 are what the longest row takes. Rows are taken back, and every request ends all the same."""
    monkeypatch.setattr("worker.engine.cuda.cache.MARGIN_TOKENS", 1)
    engine = load(folders("llama"), rows=5, pages=pages)
    requests = [request for request in mixed_requests(14)[:9] if not request.params.use_beam_search]
    alone = [engine.generate([request])[0] for request in requests]
    assert answers(alone)
    before = engine.stats()["preemptions"]

    outputs = engine.generate(requests)

    assert outputs == alone
    assert engine.stats()["preemptions"] > before
    assert engine.stats()["row_limit"] == 5
    assert all_pages_are_free(engine)


@pytest.mark.usefixtures("plain")
def test_an_admission_that_knows_no_pages_costs_time_and_no_answer(
    folders: Callable[[str], Path], load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where room was thought to be that is not, the same rows would be let in again and again."""
    params = SamplingParams(max_tokens=30, temperature=0.0, ignore_eos=True)
    requests = [Request(str(index), prompt(index, 100), params=params) for index in range(5)]
    engine = load(folders("llama"), rows=5, pages=5)
    alone = [engine.generate([request])[0] for request in requests]
    monkeypatch.setattr("worker.engine.cuda.room.PagedRoom.fits", lambda *_: True)
    engine.add(engine.prepare(requests[0]))
    outputs = engine.step()
    for request in requests[1:]:
        engine.add(engine.prepare(request))
    for _ in range(400):
        outputs += engine.step()
    assert not engine.has_work
    assert sorted(outputs, key=lambda output: output.request_id) == alone


@pytest.mark.usefixtures("plain")
def test_beams_that_fit_alone_are_never_taken_apart(folders: Callable[[str], Path], load: Load) -> None:
    """Three beams of two pages each, of which they share the first, beside rows that are in their way."""
    beams = SamplingParams(max_tokens=40, temperature=0.0, n=3, best_of=3, use_beam_search=True, ignore_eos=True)
    plain = SamplingParams(max_tokens=120, temperature=0.0, ignore_eos=True)
    requests = [Request("beams", prompt(1, 66), params=beams), Request("row", prompt(2, 30), params=plain)]
    expected = Engine.load(folders("llama"), rows=4, max_model_len=256).generate(requests)

    engine = load(folders("llama"), rows=4, pages=4, max_model_len=256)

    assert answers(engine.generate(requests)) == answers(expected)
    assert "exceed the engine's cache" in str(refused(engine, replace(requests[0], params=replace(beams, best_of=4))))


def refused(engine: Engine, request: Request) -> RowError:
    with pytest.raises(RowError) as error:
        engine.prepare(request)
    return error.value


@pytest.mark.usefixtures("plain")
def test_the_row_that_has_come_farthest_stays(
    folders: Callable[[str], Path], load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the others return by reservation, so that pages are fought over once for each row that ends."""
    monkeypatch.setattr("worker.engine.cuda.cache.MARGIN_TOKENS", 1)
    engine = load(folders("llama"), rows=3, pages=5)
    params = SamplingParams(max_tokens=150, temperature=0.0, ignore_eos=True)
    groups = [engine.prepare(Request(str(index), prompt(index, 40), params=params)) for index in range(3)]
    outputs: list[Output] = []
    for group in groups:
        engine.add(group)
        outputs += engine.step()
    while engine.has_work:
        outputs += engine.step()
    assert [output.request_id for output in outputs] == ["0", "1", "2"]
    assert 0 < engine.stats()["preemptions"] <= 4


@pytest.mark.usefixtures("plain")
def test_a_row_that_does_not_fit_alone_fails_and_leaves_the_others_alone(
    folders: Callable[[str], Path], load: Load
) -> None:
    """As where the device had less memory than the budget said."""
    engine = load(folders("llama"), rows=3)
    cache_of(engine).budget_tokens = 2 * PAGE_TOKENS
    small = Request("small", prompt(1, 20), params=GREEDY)
    [alone] = engine.generate([small])
    large = Request("large", prompt(2, 120), params=replace(GREEDY, max_tokens=30, ignore_eos=True))

    found, other = engine.generate([large, small])

    assert found.error is not None
    assert found.error.code == "out_of_memory"
    assert other == alone
    assert all_pages_are_free(engine)


@pytest.mark.usefixtures("plain")
def test_prompts_that_begin_alike_take_no_page_twice(folders: Callable[[str], Path], load: Load) -> None:
    engine = load(folders("llama"), rows=4, pages=20)
    instruction = prompt(0, 3 * PAGE_TOKENS)
    requests = [Request(str(tail), [*instruction, tail + 3], params=GREEDY) for tail in range(6)]
    answers(engine.generate(requests[:2]))
    for request in requests[2:]:
        engine.add(engine.prepare(request))
    engine.step()
    pool = cache_of(engine).pool
    assert pool.num_pages - pool.num_free == 3 + 4
    assert pool.num_pages - pool.num_unused == 3 + 4
    while engine.has_work:
        engine.step()
    assert pool.num_pages - pool.num_free == 3
    assert engine.stats()["prefix_hits"] >= 4


@pytest.mark.usefixtures("plain")
def test_answers_share_their_prompts_pages(folders: Callable[[str], Path], load: Load) -> None:
    engine = load(folders("llama"), rows=4, pages=20)
    params = replace(GREEDY, temperature=1.0, n=4)
    engine.add(engine.prepare(Request("r", prompt(0, 2 * PAGE_TOKENS + 5), params=params)))
    engine.step()
    pool = cache_of(engine).pool
    assert pool.num_pages - pool.num_free == 2 + 4


@pytest.mark.usefixtures("plain")
def test_prompts_cut_at_pages_have_the_same_bits(
    folders: Callable[[str], Path], load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = replace(GREEDY, prompt_logprobs=1)
    requests = [Request(str(length), prompt(length, length), params=params) for length in (200, 30)]
    expected = load(folders("window"), rows=3).generate(requests)
    monkeypatch.setattr("worker.engine.runner.PREFILL_TOKENS", PAGE_TOKENS)
    assert load(folders("window"), rows=3).generate(requests) == expected


def test_a_nan_that_was_left_in_a_page_reaches_nobody(folders: Callable[[str], Path], load: Load) -> None:
    """By the kernels themselves: pages are given back as they are."""
    engine = load(folders("llama"), rows=1, pages=5)
    request = Request("r", prompt(1, 10), params=replace(GREEDY, max_tokens=2))
    expected = engine.generate([request])
    with torch.inference_mode():
        for tensor in (*cache_of(engine).k, *cache_of(engine).v):
            tensor.fill_(torch.nan)
    assert engine.generate([request]) == expected


@pytest.mark.usefixtures("plain")
def test_rows_that_must_begin_anew_leave_their_pages(
    folders: Callable[[str], Path], load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(folders("llama"), rows=2)
    request = Request("r", prompt(1, 10), params=GREEDY)
    expected = engine.generate([request])
    engine.add(engine.prepare(request))
    with monkeypatch.context() as patch:
        patch.setattr("worker.engine.cuda.attention.attend_pages", broken)
        with pytest.raises(RuntimeError, match="a device error"):
            engine.step()
    pool = cache_of(engine).pool
    assert pool.num_unused == pool.num_pages
    outputs: list[Output] = []
    while engine.has_work:
        outputs += engine.step()
    assert answers(outputs) == answers(expected)


def broken(*_: object, **__: object) -> None:
    raise RuntimeError("a device error")
