"""What only a GPU can show: captured steps, a host that never waits, and answers that are the CPU's."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from tests.unit.engine.models import ragged_requests, tiny_llama
from worker.engine import Engine, Output, Request, SamplingParams
from worker.engine.cuda.device_step import GraphedStep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads as wide as the kernels' least tiles, and scores far enough apart that rounding decides no token."""
    folder = tmp_path_factory.mktemp("gpu")
    tiny_llama(folder, scale=2.0, hidden_size=256, intermediate_size=512, num_attention_heads=4, num_key_value_heads=2)
    return folder


def step_of(engine: Engine) -> GraphedStep:
    step = engine._stepper._device_step
    assert isinstance(step, GraphedStep)
    return step


def test_answers_are_the_cpus(folder: Path) -> None:
    requests = ragged_requests(24, max_prompt=90, max_tokens=40)
    expected = Engine.load(folder, device="cpu", dtype="float32").generate(requests)
    engine = Engine.load(folder, device="cuda", dtype="float32", rows=8)
    outputs = engine.generate(requests)
    same = [output.token_ids == other.token_ids for output, other in zip(outputs, expected, strict=True)]
    assert sum(same) >= 0.9 * len(same)  # where two scores are nearly one, another order of sums may decide
    for output, other in zip(outputs, expected, strict=True):
        if output.token_ids == other.token_ids:
            assert output.logprobs == pytest.approx(other.logprobs, abs=1e-3)
    assert step_of(engine).graphs.num_captured > 1


def test_a_step_does_not_make_the_host_wait(folder: Path) -> None:
    engine = Engine.load(folder, device="cuda", dtype="bfloat16", rows=8)
    params = SamplingParams(max_tokens=60, ignore_eos=True)
    settings = [replace(params, temperature=0.0), replace(params, temperature=0.8, top_k=20, top_p=0.9)]
    for index in range(8):
        engine.add(engine.prepare(Request(str(index), [5 + index, 6, 7], params=settings[index % 2])))
    for _ in range(5):
        engine.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            engine.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert step_of(engine).graphs.num_captured > 0


def drain(engine: Engine, requests: list[Request]) -> dict[str, Output]:
    return {output.request_id: output for output in engine.generate(requests)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reproducible_rows_have_the_same_bits_in_every_batch(folder: Path, dtype: str) -> None:
    requests = ragged_requests(40, max_prompt=150, max_tokens=24, sampled=True)
    expected = drain(Engine.load(folder, device="cuda", dtype=dtype, rows=40, reproducible=True), requests)
    for rows in (1, 3, 24):
        engine = Engine.load(folder, device="cuda", dtype=dtype, rows=rows, reproducible=True)
        assert drain(engine, requests[::-1]) == expected


def test_a_cache_too_small_for_all_rows_changes_no_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = ragged_requests(24, max_prompt=150, max_tokens=60, sampled=True)
    expected = drain(Engine.load(folder, device="cuda", dtype="float32", rows=8, reproducible=True), requests)
    monkeypatch.setattr("worker.engine.engine.cache_bytes", lambda *_, **__: 2**20)
    engine = Engine.load(folder, device="cuda", dtype="float32", rows=8, reproducible=True)
    assert drain(engine, requests) == expected
