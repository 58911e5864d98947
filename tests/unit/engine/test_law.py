"""The law of the batch: tokens and logprobs are the same, bit for bit, whatever shares the batch."""

import random
from pathlib import Path

import pytest

from tests.unit.engine.models import ragged_requests, tiny_llama
from worker.engine import Engine, Output, Request


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide and long enough that matrix kernels change their blocking with the batch, if they ever do."""
    folder = tmp_path_factory.mktemp("wide")
    tiny_llama(
        folder,
        scale=2.0,
        hidden_size=192,
        intermediate_size=1024,
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
