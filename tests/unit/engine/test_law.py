"""The law of the batch: tokens and logprobs are the same, bit for bit, whatever shares the batch."""

import random
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.engine.models import VOCAB_SIZE, ragged_requests, tiny_llama
from worker.engine import Engine, Output, Request, SamplingParams


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide and long enough that matrix kernels change their blocking with the batch, if they ever do."""
    folder = tmp_path_factory.mktemp("wide")
    tiny_llama(
        folder,
        scale=2.0,
        hidden_size=192,
        intermediate_size=2560,  # from 2,048 on, products of rows not padded to 16 differ
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
    )
    return folder


def decode(engine: Engine, requests: list[Request]) -> dict[str, Output]:
    return {output.request_id: output for output in engine.generate(requests)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_neighbours_slots_and_order_change_no_bit(wide_folder: Path, dtype: str) -> None:
    requests = ragged_requests(40, max_prompt=500, max_tokens=24, sampled=True)
    expected = decode(Engine.load(wide_folder, rows=40, dtype=dtype), requests)
    for rows in (3, 24):
        random.Random(rows).shuffle(requests)
        assert decode(Engine.load(wide_folder, rows=rows, dtype=dtype), requests) == expected
    alone = Engine.load(wide_folder, rows=1, dtype=dtype)
    assert decode(alone, requests[:8]) == {request.id: expected[request.id] for request in requests[:8]}


def test_rows_join_at_any_step(folder: Path) -> None:
    requests = ragged_requests(12, sampled=True)
    expected = decode(Engine.load(folder, rows=12), requests)
    engine = Engine.load(folder, rows=5)
    outputs: list[Output] = []
    rng = random.Random(0)
    while requests or engine.has_work:
        for _ in range(rng.randint(0, 2)):
            if requests:
                engine.add(engine.prepare(requests.pop()))
        outputs += engine.step()
    assert {output.request_id: output for output in outputs} == expected


def draw_request(draw: st.DrawFn, index: int) -> Request:
    """One request with any of the engine's settings; its prompt may begin as others do."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    instruction = [random.Random(draw(st.integers(0, 3))).randrange(3, VOCAB_SIZE) for _ in range(70)]
    prompt = instruction[: draw(st.sampled_from([0, 33, 70]))] + [rng.randrange(3, VOCAB_SIZE) for _ in range(5)]
    values: dict[str, object] = {"max_tokens": draw(st.integers(1, 9)), "seed": index}
    if draw(st.booleans()):
        values |= {"temperature": draw(st.sampled_from([0.0, 0.7, 1.5])), "top_p": draw(st.sampled_from([0.5, 1.0]))}
        values |= {"top_k": draw(st.sampled_from([0, 5])), "min_p": draw(st.sampled_from([0.0, 0.05]))}
        values |= {"repetition_penalty": draw(st.sampled_from([1.0, 1.3])), "n": draw(st.sampled_from([1, 2, 3]))}
        values |= {"frequency_penalty": draw(st.sampled_from([0.0, 0.5])), "min_tokens": draw(st.integers(0, 3))}
        values |= {"allowed_token_ids": draw(st.sampled_from([None, None, (5,), tuple(range(2, 150))]))}
        values |= {"logit_bias": draw(st.sampled_from([(), ((7, 5.0), (9, -100.0))]))}
    elif draw(st.booleans()):
        values |= {"use_beam_search": True, "best_of": 2, "n": 2, "temperature": 0.0}
    else:
        values |= {"temperature": 0.0, "context_overflow": "crop", "max_tokens": 30, "ignore_eos": True}
    values |= {"top_logprobs": draw(st.sampled_from([None, 2])), "prompt_logprobs": draw(st.sampled_from([None, 1]))}
    return Request(f"r{index}", prompt, params=SamplingParams(**values))  # type: ignore[arg-type]


@st.composite
def mixes(draw: st.DrawFn) -> list[Request]:
    return [draw_request(draw, index) for index in range(draw(st.integers(1, 9)))]


@pytest.fixture(scope="module")
def short_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A context that cropping rows outgrow."""
    folder = tmp_path_factory.mktemp("short")
    tiny_llama(folder, max_position_embeddings=90)
    return folder


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def engines(short_folder: Path, request: pytest.FixtureRequest) -> list[Engine]:
    """A plain engine, and others that admit, share and compact differently."""
    plain = Engine.load(short_folder, rows=2, dtype=request.param, prefix_sharing=False)
    return [plain, *(Engine.load(short_folder, rows=rows, dtype=request.param) for rows in (3, 17))]


@given(requests=mixes(), seed=st.integers(0, 99), num_threads=st.sampled_from([1, 3]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mix_has_the_bits_of_each_request_alone(
    engines: list[Engine], requests: list[Request], seed: int, num_threads: int
) -> None:
    plain, *others = engines
    alone = {request.id: plain.generate([request])[0] for request in requests}
    assert all(output.error is None for output in alone.values())
    random.Random(seed).shuffle(requests)
    torch.set_num_threads(num_threads)
    try:
        for engine in others:
            assert decode(engine, requests) == alone
    finally:
        torch.set_num_threads(1)
