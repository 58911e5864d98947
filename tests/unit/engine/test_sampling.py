"""The sampler as a whole: what it draws, in which order settings act, and that no row depends on another."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worker.engine import sampling
from worker.engine.rows import Rows, features_of
from worker.engine.sampling import Features, SamplingState, sample, top_logprobs
from worker.engine.sequence import Sequence
from worker.engine.types import SamplingParams

EVERYTHING = Features(sampled=True, filtered=True, min_tokens=True)


def scores_of(num_rows: int, num_tokens: int, *, scale: float = 3.0, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, num_tokens, generator=torch.Generator().manual_seed(seed)) * scale


def state_of(num_rows: int, **changes: object) -> SamplingState:
    settings: dict[str, object] = {
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "seed": 5,
        "generated": 0,
        "min_tokens": 0,
        "stop_ids": [-1],
    }
    values = {name: torch.tensor(value) for name, value in (settings | changes).items()}
    expanded: dict[str, Any] = {name: value.expand(num_rows, *value.shape) for name, value in values.items()}
    return SamplingState(**expanded)


def state_at(state: SamplingState, index: int) -> SamplingState:
    return replace(state, generated=torch.full_like(state.generated, index))


def test_temperature_zero_is_the_first_maximum() -> None:
    scores = torch.tensor([[0.0, 2.0, 2.0, 1.0]]).expand(2, 4)
    tokens, logprobs = sample(scores, state_of(2, temperature=0.0, top_k=3), EVERYTHING)
    assert tokens.tolist() == [1, 1]
    assert logprobs.tolist() == pytest.approx([scores[0].log_softmax(-1)[1].item()] * 2)


def test_top_p_zero_is_argmax() -> None:
    scores = scores_of(8, 100)
    tokens, _ = sample(scores, state_of(8, top_p=0.0, temperature=2.0), EVERYTHING)
    assert tokens.equal(scores.argmax(-1))


def test_min_p_drops_unlikely_tokens() -> None:
    scores = torch.tensor([[5.0, 4.9, 0.0, -1.0]])
    state = state_of(1, min_p=0.5, temperature=1.0)
    drawn = {int(sample(scores, state_at(state, index), EVERYTHING)[0]) for index in range(200)}
    assert drawn == {0, 1}


def test_draws_follow_the_distribution() -> None:
    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(20000, 4)
    state = replace(state_of(20000), generated=torch.arange(20000))
    tokens, _ = sample(scores, state, Features(sampled=True))
    shares = tokens.bincount(minlength=4) / 20000
    assert shares.tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.015)


@pytest.mark.parametrize("temperature", [1e-30, 1e-4])
def test_tiny_temperatures_are_argmax(temperature: float) -> None:
    scores = scores_of(4, 50, scale=100.0)
    tokens, _ = sample(scores, state_of(4, temperature=temperature), Features(sampled=True))
    assert tokens.equal(scores.argmax(-1))


def test_stop_tokens_wait_for_min_tokens() -> None:
    scores = torch.tensor([[9.0, 8.0, 1.0]]).expand(3, 3)
    state = state_of(3, temperature=0.0, stop_ids=[0, 1], min_tokens=2)
    early = sample(scores, state, EVERYTHING)[0].tolist()
    late = sample(scores, state_at(state, 2), EVERYTHING)[0].tolist()
    assert (early, late) == ([2, 2, 2], [0, 0, 0])


def test_rows_without_stops_ban_nothing() -> None:
    scores = torch.tensor([[9.0, 8.0, 1.0]])
    state = state_of(1, temperature=0.0, stop_ids=[-1, -1], min_tokens=2)
    assert sample(scores, state, EVERYTHING)[0].tolist() == [0]


def test_rows_of_nan_raise_nothing() -> None:
    scores = torch.full((2, 2000), torch.nan)
    scores[1] = 0.0
    tokens, logprobs = sample(scores, state_of(2, top_p=0.5), EVERYTHING)
    assert 0 <= int(tokens[0]) < 2000
    assert logprobs.isfinite().tolist() == [False, True]


@pytest.mark.timeout(30)  # the draw went on for ever
@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
@pytest.mark.parametrize("settings", [{"top_k": 5}, {"top_k": 100}, {"top_k": 100, "top_p": 0.9}, {"min_p": 0.1}])
def test_one_score_that_is_no_number_fails_its_row_alone(settings: dict[str, Any], bad: float) -> None:
    scores = scores_of(2, 4500)
    expected, _ = sample(scores, state_of(2, **settings), EVERYTHING)
    scores[0, 17] = bad
    tokens, logprobs = sample(scores, state_of(2, **settings), EVERYTHING)
    assert logprobs.isfinite().tolist() == [False, True]
    assert tokens[1] == expected[1]


def test_top_logprobs_of_some_rows() -> None:
    scores = scores_of(5, 30)
    values, ids = top_logprobs(scores, [1, 4], 3)
    expected = scores[[1, 4]].log_softmax(-1).topk(3)
    torch.testing.assert_close(values, expected.values)
    assert ids.equal(expected.indices)


def random_sequence(rng: random.Random, name: str, num_tokens: int) -> Sequence:
    """A row with its own mix of settings, many of them off."""

    def some(value: float, off: float = 0.0) -> float:
        return rng.choice([off, off, value])

    params = SamplingParams(
        temperature=rng.choice([0.0, 0.7, 1.0, 1.9]),
        top_k=rng.choice([0, 0, 1, 20, 100]),
        top_p=some(rng.random(), off=1.0),
        min_p=some(0.05),
        repetition_penalty=some(rng.uniform(0.5, 2), off=1.0),
        frequency_penalty=some(rng.uniform(-2, 2)),
        presence_penalty=some(rng.uniform(-2, 2)),
        logit_bias=tuple((token, rng.uniform(-9, 9)) for token in rng.sample(range(num_tokens), rng.choice([0, 0, 7]))),
        seed=rng.getrandbits(63),
        min_tokens=rng.choice([0, 0, 9]),
        allowed_token_ids=tuple(rng.sample(range(num_tokens), num_tokens // 2)) if rng.random() < 0.2 else None,
    )
    words = tuple(
        tuple(rng.choices(range(num_tokens), k=rng.randint(1, 3))) for _ in range(rng.choice([0, 0, 0, 2, 5]))
    )
    stops = tuple(rng.sample(range(num_tokens), rng.randint(0, 3)))
    prompt = [rng.randrange(num_tokens) for _ in range(rng.randint(1, 40))]
    return Sequence(name, prompt, params, 8, stops, seed=params.seed, bad_words=words)


def decode(sequences: list[Sequence], scores: dict[str, Tensor]) -> dict[str, tuple[list[int], list[float]]]:
    """Sample three steps of rows given their scores [3, V] by name."""
    rows = Rows.allocate(len(sequences), max_stop_ids=3, device=torch.device("cpu"))
    rows.start(0, sequences, vocab_size=next(iter(scores.values())).shape[-1])
    every = slice(0, len(sequences))
    chosen: list[tuple[Tensor, Tensor]] = []
    for step in range(3):
        batch = torch.stack([scores[sequence.request_id][step] for sequence in sequences])
        chosen.append(sample(batch, rows.sampling(every), features_of(sequences)))
        rows.record(every, *chosen[-1])
    tokens, logprobs = (torch.stack(values, 1).tolist() for values in zip(*chosen, strict=True))
    return {sequence.request_id: (tokens[row], logprobs[row]) for row, sequence in enumerate(sequences)}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), num_rows=st.integers(1, 40), num_tokens=st.sampled_from([8, 64, 199, 2048, 5003]))
def test_no_bit_depends_on_neighbours_or_order(seed: int, num_rows: int, num_tokens: int) -> None:
    rng = random.Random(seed)
    sequences = [random_sequence(rng, str(row), num_tokens) for row in range(num_rows)]
    generator = torch.Generator().manual_seed(seed)
    scores = {item.request_id: torch.randn(3, num_tokens, generator=generator) * 3 for item in sequences}
    expected = decode(sequences, scores)
    rng.shuffle(sequences)
    assert decode(sequences, scores) == expected
    some = sequences[: rng.randint(1, num_rows)]
    assert decode(some, scores) == {item.request_id: expected[item.request_id] for item in some}
    assert decode(some[:1], scores) == {some[0].request_id: expected[some[0].request_id]}


def test_no_bit_depends_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(5)
    sequences = [random_sequence(rng, str(row), 700) for row in range(20)]
    scores = {sequence.request_id: scores_of(3, 700, seed=int(sequence.request_id)) for sequence in sequences}
    expected = decode(sequences, scores)
    monkeypatch.setattr(sampling, "_CHUNK_SCORES", 3 * 700)
    assert decode(sequences, scores) == expected


def test_logprobs_are_of_the_raw_scores() -> None:
    scores = scores_of(1, 100)
    params = SamplingParams(temperature=0.0, logit_bias=((7, 100.0),), repetition_penalty=1.5)
    tokens, logprobs = decode([Sequence("a", [7], params, 3, ())], {"a": scores.expand(3, -1)})["a"]
    assert tokens == [7, 7, 7]
    assert logprobs == pytest.approx([scores[0].log_softmax(-1)[7].item()] * 3, abs=1e-5)


def test_a_bias_does_not_lift_min_tokens_ban() -> None:
    params = SamplingParams(temperature=0.0, logit_bias=((7, 100.0),), min_tokens=2)
    tokens, _ = decode([Sequence("a", [1], params, 3, (7,))], {"a": scores_of(1, 100).expand(3, -1)})["a"]
    assert [token == 7 for token in tokens] == [False, False, True]
