"""The fast engine gives the answers of the algorithm in its plainest form."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.unit.engine.models import VOCAB_SIZE, ragged_requests
from worker.engine import Engine, Request
from worker.engine.reference import generate as generate_plainly


def with_penalties(request: Request, rng: random.Random) -> Request:
    biases = [(token, rng.uniform(-20, 20)) for token in rng.sample(range(VOCAB_SIZE), rng.choice([0, 0, 9]))]
    params = replace(
        request.params,
        repetition_penalty=rng.choice([1.0, 1.3, 0.8]),
        frequency_penalty=rng.choice([0.0, 4.0, -3.0]),
        presence_penalty=rng.choice([0.0, 5.0]),
        logit_bias=tuple(biases),
    )
    return replace(request, params=params)


def assert_equal_to_reference(engine: Engine, requests: list[Request]) -> None:
    sequences = [engine.prepare(request).sequences[0] for request in requests]
    with torch.no_grad():
        expected = generate_plainly(engine.weights, engine.spec, sequences)
    for output, (tokens, logprobs) in zip(engine.generate(requests), expected, strict=True):
        assert output.token_ids == tokens
        assert output.logprobs == pytest.approx(logprobs, abs=1e-4)


@pytest.mark.parametrize("sampled", [False, True])
def test_penalties_and_biases(folder: Path, sampled: bool) -> None:
    rng = random.Random(3)
    requests = [with_penalties(request, rng) for request in ragged_requests(15, max_prompt=40, sampled=sampled)]
    plain = ragged_requests(15, max_prompt=40, sampled=sampled)[:3]
    assert_equal_to_reference(Engine.load(folder, rows=6), requests + plain)


def test_rows_that_outgrow_the_context(folder: Path) -> None:
    rng = random.Random(4)
    requests = []
    for request in ragged_requests(8, max_prompt=60, max_tokens=25, sampled=True):
        params = replace(with_penalties(request, rng).params, context_overflow="crop")
        requests.append(replace(request, params=params))
    assert_equal_to_reference(Engine.load(folder, rows=5, max_model_len=30), requests)
