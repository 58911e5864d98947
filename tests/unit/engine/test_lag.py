"""A device that is a step ahead of the host gives the same answers; what it does too much is nobody's."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.engine.models import ragged_requests, tiny_llama
from tests.unit.engine.test_deltas import check, decode
from tests.unit.engine.test_faults import Trouble, drain, mixed_requests, run_all
from worker.engine import Engine, Output, Request, SamplingParams
from worker.engine.attention import TorchAttention
from worker.engine.families import load_spec
from worker.engine.fast_paths import FastPaths
from worker.engine.ops import TORCH_OPS


@pytest.fixture(scope="module")
def expected(short_folder: Path) -> dict[str, Output]:
    return run_all(Engine.load(short_folder, rows=7), mixed_requests())


@pytest.fixture
def engine(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr("worker.engine.engine.choose_lag", lambda _: 1)
    return Engine.load(short_folder, rows=7)


def test_everything_is_answered_alike(engine: Engine, expected: dict[str, Output]) -> None:
    assert run_all(engine, mixed_requests()) == expected
    assert engine.request_ids() == []


def lagging_requests() -> list[Request]:
    """Those that no step waits for: beams and outgrown contexts take the lag from all rows beside them."""
    asked = [(request, request.params) for request in mixed_requests()]
    return [request for request, params in asked if not params.use_beam_search and params.context_overflow != "crop"]


def test_memory_may_run_out_between_a_step_and_its_results(engine: Engine, expected: dict[str, Output]) -> None:
    numbers = [100, 900, 4000]
    with Trouble(numbers):
        outputs = run_all(engine, lagging_requests())
    assert outputs == {name: expected[name] for name in outputs}
    assert engine.stats()["oom_splits"] == len(numbers)


def test_rows_may_begin_anew_at_any_step(engine: Engine, expected: dict[str, Output]) -> None:
    for request in lagging_requests():
        engine.add(engine.prepare(request))
    outputs: dict[str, Output] = {}
    rng = random.Random(0)
    num_begun = 0
    while engine.has_work:
        if engine._stepper.has_in_flight and rng.random() < 0.5 and num_begun < 6:
            num_begun += 1
            engine._recovery.begin_anew()
        outputs |= {output.request_id: output for output in engine.step()}
    assert num_begun == 6
    assert outputs == {name: expected[name] for name in outputs}


def test_rows_join_and_are_cancelled_at_any_step(engine: Engine, short_folder: Path) -> None:
    requests = ragged_requests(24, max_prompt=40, max_tokens=20, sampled=True)
    alone = {output.request_id: output for output in Engine.load(short_folder, rows=7).generate(requests)}
    rng, cancelled, outputs = random.Random(0), set[str](), dict[str, Output]()
    while requests or engine.has_work:
        for _ in range(rng.randint(0, 2)):
            if requests:
                engine.add(engine.prepare(replace(requests.pop(), stream=True)))
        if engine.request_ids() and rng.random() < 0.1:
            name = rng.choice(engine.request_ids())
            assert engine.cancel(name)
            cancelled.add(name)
        outputs |= {output.request_id: output for output in engine.step()}
        assert not cancelled & {delta.request_id for delta in engine.take_deltas()}
    assert len(cancelled) > 3
    assert outputs == {name: output for name, output in alone.items() if name not in cancelled}


@pytest.mark.parametrize("stop", [(), ("z",), ("ab", "xy")])
def test_pieces_are_those_of_the_answer(engine: Engine, stop: tuple[str, ...]) -> None:
    params = SamplingParams(max_tokens=20, seed=3, n=3, stop=stop, top_logprobs=1, echo=True)
    outputs, deltas = decode(engine, [Request(str(i), f"abc{i}", params=params, stream=True) for i in range(5)])
    for name, output in outputs.items():
        check(output, [delta for delta in deltas if delta.request_id == name], params)


def test_a_row_is_decoded_once_too_often_and_no_more(engine: Engine, short_folder: Path) -> None:
    requests = ragged_requests(20, max_prompt=40, max_tokens=20)
    prompt = Engine.load(short_folder, rows=7)
    prompt.generate(requests)
    for request in requests:
        engine.add(engine.prepare(request))
    drain(engine)
    needed = prompt.stats()["row_steps"]
    assert needed < engine.stats()["row_steps"] <= needed + len(requests)


def test_a_row_that_fills_its_slot_writes_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """256 positions are what a slot has: the last token, fed once too often, would come to lie beyond."""
    tiny_llama(tmp_path, max_position_embeddings=512)
    request = Request("long", [5] * 100, params=SamplingParams(max_tokens=157, temperature=0.0, ignore_eos=True))
    [expected] = Engine.load(tmp_path, rows=1).generate([request])
    paths = FastPaths(TorchAttention(load_spec(tmp_path), TORCH_OPS, masked=True), TORCH_OPS, {"attention": "masked"})
    monkeypatch.setattr("worker.engine.runner.choose_fast_paths", lambda *_, **__: paths)
    monkeypatch.setattr("worker.engine.engine.choose_lag", lambda _: 1)
    [output] = Engine.load(tmp_path, rows=1).generate([request])
    assert output.token_ids == expected.token_ids
