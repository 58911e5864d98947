"""The engine as a GPU runs it, in Triton's interpreter and without graphs, against the engine on a CPU."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from tests.unit.engine.models import tiny_llama
from worker.engine import Engine, Output, Request, SamplingParams
from worker.engine.cuda.device_step import GraphedStep, bucket_of, longest_of
from worker.engine.cuda.pages import PAGE_TOKENS
from worker.engine.families import load_spec
from worker.engine.fast_paths import cuda_paths
from worker.engine.kv_cache import token_bytes

BASE = SamplingParams(max_tokens=4, seed=3, ignore_eos=True)
PLAIN = [
    replace(BASE, temperature=0.0),
    replace(BASE, temperature=0.9),
    replace(BASE, temperature=1.2, top_k=7, top_p=0.8, min_p=0.01, max_tokens=3),
    replace(BASE, min_tokens=3, ignore_eos=False),
]
Load = Callable[..., Engine]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_llama(folder, scale=2.0, hidden_size=48, intermediate_size=64, vocab_size=64)
    return folder


@pytest.fixture
def load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load the engine with all that is a GPU's but the GPU and its graphs."""

    num_bytes = 12 * PAGE_TOKENS * token_bytes(load_spec(folder), torch.float32)

    def load(*, lag: int = 1, reproducible: bool = False) -> Engine:
        with monkeypatch.context() as patch:
            patch.setattr("worker.engine.runner.choose_fast_paths", lambda spec, *_, **asked: cuda_paths(spec, **asked))
            patch.setattr("worker.engine.loader.packing_works", lambda _: False)
            patch.setattr("worker.engine.engine.choose_lag", lambda _: lag)
            patch.setattr("worker.engine.engine.cache_bytes", lambda *_, **__: num_bytes)
            return Engine.load(folder, rows=3, max_model_len=128, reproducible=reproducible)

    return load


def requests(params: list[SamplingParams]) -> list[Request]:
    return [Request(str(index), [5 + index, 9, 11 + index], params=one) for index, one in enumerate(params)]


def same(outputs: list[Output], expected: list[Output]) -> None:
    for output, other in zip(outputs, expected, strict=True):
        assert output.error is None
        assert output.token_ids == other.token_ids
        assert output.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def count_steps(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many rows each step of the device was for."""
    numbers: list[int] = []
    run = GraphedStep.run

    def counted(self: GraphedStep, ends: list[int], features: Any) -> Any:  # noqa: ANN401
        numbers.append(len(ends))
        return run(self, ends, features)

    monkeypatch.setattr(GraphedStep, "run", counted)
    return numbers


@pytest.mark.parametrize("lag", [0, 1])
def test_plain_rows_are_decoded_by_the_device_alone(
    folder: Path, load: Load, lag: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Engine.load(folder, rows=3).generate(requests(PLAIN))
    engine = load(lag=lag)
    numbers = count_steps(engine, monkeypatch)

    same(engine.generate(requests(PLAIN)), expected)

    assert len(numbers) == engine.stats()["steps"]
    assert max(numbers) == 3
    assert {"paged", "compiled"} <= set(engine.info.fast_paths.values())


def test_rows_that_ask_for_more_take_turns_with_plain_ones(
    folder: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(BASE, max_tokens=2)
    asking = [
        replace(short, frequency_penalty=0.7, temperature=0.0),
        replace(short, logit_bias=((7, 3.0),), top_logprobs=2),
        BASE,
    ]
    expected = Engine.load(folder, rows=3).generate(requests(asking))
    engine = load()
    numbers = count_steps(engine, monkeypatch)

    same(engine.generate(requests(asking)), expected)

    assert 0 < len(numbers) < engine.stats()["steps"]


def test_reproducible_products_give_the_answers_too(folder: Path, load: Load) -> None:
    few = requests([replace(one, max_tokens=2) for one in PLAIN[:2]])
    expected = Engine.load(folder, rows=3).generate(few)
    engine = load(reproducible=True)
    same(engine.generate(few), expected)
    assert engine.info.fast_paths["products"] == "batch-invariant"
    assert engine.info.fingerprint != load().info.fingerprint


def test_reproducible_rows_have_the_same_bits_in_every_batch(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's product has other bits for other numbers of rows, on a GPU; here it is made to."""
    linear = torch.nn.functional.linear

    def moody(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return linear(x, weight, bias) * (1 + len(x) * 2**-20)

    monkeypatch.setattr("torch.nn.functional.linear", moody)
    engine = load(reproducible=True)
    few = requests([replace(one, max_tokens=2) for one in PLAIN[:3]])
    together = engine.generate(few)
    assert engine.generate(few[2:]) == together[2:]
    assert engine.generate(few[::-1]) == together[::-1]


def test_a_step_that_warms_up_moves_no_row_on(load: Load) -> None:
    """A GPU runs every step before it captures it."""
    engine = load()
    for request in requests(PLAIN[:3]):
        engine.add(engine.prepare(request))
    engine.step()
    step = engine._stepper._device_step
    assert isinstance(step, GraphedStep)
    rows = engine._rows
    before = [rows.token.clone(), rows.position.clone(), rows.generated.clone(), rows.done.clone()]
    (shape,) = step.graphs._replays

    step._warm_up(lambda: step._step(shape))

    for tensor, was in zip((rows.token, rows.position, rows.generated, rows.done), before, strict=True):
        assert torch.equal(tensor, was)
    assert int(step._num_live) == 3


def test_graphs_are_forgotten_with_the_memory_they_write_to(load: Load) -> None:
    engine = load()
    engine.add(engine.prepare(requests(PLAIN[:1])[0]))
    engine.step()
    step = engine._stepper._device_step
    assert isinstance(step, GraphedStep)
    step._keep_graphs_true()
    assert step.graphs.num_captured == 1
    engine._runner.cache.release()
    engine._runner.cache.reserve(0, 1, 8)
    step._keep_graphs_true()
    assert step.graphs.num_captured == 0


@pytest.mark.parametrize(
    ("num_rows", "bucket"), [(1, 1), (2, 2), (3, 4), (9, 16), (16, 16), (17, 32), (33, 64), (256, 256), (257, 288)]
)
def test_rows_go_into_the_least_bucket(num_rows: int, bucket: int) -> None:
    assert bucket_of(num_rows) == bucket


@pytest.mark.parametrize(
    ("num_tokens", "longest"), [(1, 256), (256, 256), (257, 512), (513, 1024), (1024, 1024), (4097, 8192)]
)
def test_lengths_go_into_powers_of_two(num_tokens: int, longest: int) -> None:
    assert longest_of(num_tokens) == longest
