"""Penalties and biases against Hugging Face's processor and a plain formula, row by row and token by token."""

import random
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

from worker.engine.penalties import Penalties
from worker.engine.sequence import Sequence
from worker.engine.types import SamplingParams

CPU = torch.device("cpu")
NUM_TOKENS = 50


def scores_of(num_rows: int) -> Tensor:
    return torch.randn(num_rows, NUM_TOKENS, generator=torch.Generator().manual_seed(num_rows)) * 3


def started(prompts: list[list[int]], params: list[SamplingParams], *, max_new_tokens: int = 30) -> Penalties:
    penalties = Penalties.allocate(len(prompts), device=CPU)
    pairs = zip(prompts, params, strict=True)
    penalties.start(0, [Sequence("", prompt, param, max_new_tokens, ()) for prompt, param in pairs])
    return penalties


def applied(penalties: Penalties, scores: Tensor) -> Tensor:
    taken = penalties.take(slice(0, len(scores)))
    return scores if taken is None else taken.apply(scores)


def applied_plainly(scores: list[float], prompt: list[int], answer: list[int], params: SamplingParams) -> list[float]:
    changed = list(scores)
    for token in set(prompt + answer):
        if changed[token] > 0:
            changed[token] /= params.repetition_penalty
        else:
            changed[token] *= params.repetition_penalty
        changed[token] -= params.frequency_penalty * answer.count(token)
        changed[token] -= params.presence_penalty * (token in answer)
    for token, bias in params.logit_bias:
        changed[token] += bias
    return changed


def random_params(rng: random.Random) -> SamplingParams:
    num_biases = rng.choice([0, 0, 1, 12])
    return SamplingParams(
        repetition_penalty=rng.choice([1.0, 1.0, 1.3, 0.5]),
        frequency_penalty=rng.choice([0.0, 0.0, 1.5, -2.0]),
        presence_penalty=rng.choice([0.0, 0.0, 0.7, -1.0]),
        logit_bias=tuple((token, rng.uniform(-100, 100)) for token in rng.sample(range(NUM_TOKENS), num_biases)),
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), num_rows=st.integers(1, 6))
def test_changes_equal_the_plain_formula(seed: int, num_rows: int) -> None:
    rng = random.Random(seed)
    prompts = [[rng.randrange(NUM_TOKENS) for _ in range(rng.randint(1, 30))] for _ in range(num_rows)]
    params = [random_params(rng) for _ in range(num_rows)]
    penalties = started(prompts, params)
    answers: list[list[int]] = [[] for _ in range(num_rows)]
    scores = scores_of(num_rows)
    for _ in range(12):
        plain = zip(scores.tolist(), prompts, answers, params, strict=True)
        expected = torch.tensor([applied_plainly(*row) for row in plain])
        torch.testing.assert_close(applied(penalties, scores), expected)
        tokens = [rng.randrange(rng.choice([4, NUM_TOKENS])) for _ in range(num_rows)]
        penalties.record(slice(0, num_rows), torch.tensor(tokens))
        for answer, token in zip(answers, tokens, strict=True):
            answer.append(token)


@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_repetition_penalty_is_hugging_faces(penalty: float) -> None:
    prompt, answer = [3, 3, 8, 20], [8, 41, 0]
    penalties = started([prompt], [SamplingParams(repetition_penalty=penalty)])
    for token in answer:
        penalties.record(slice(0, 1), torch.tensor([token]))
    scores = scores_of(1)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([prompt + answer]), scores)
    assert applied(penalties, scores).equal(expected)


def test_a_row_that_does_not_ask_keeps_its_bits() -> None:
    penalties = started(
        [[0, 1], [0, 1]], [SamplingParams(), SamplingParams(presence_penalty=1.0, logit_bias=((0, 5),))]
    )
    penalties.record(slice(0, 2), torch.tensor([0, 0]))
    scores = scores_of(2)
    scores[0, 0] = -0.0
    changed = applied(penalties, scores)
    assert changed[0].view(torch.int32).equal(scores[0].view(torch.int32))
    assert not changed[1].equal(scores[1])


def test_nothing_is_kept_until_a_row_asks() -> None:
    penalties = started([[1, 2]] * 3, [SamplingParams()] * 3)
    penalties.record(slice(0, 3), torch.tensor([5, 6, 7]))
    assert penalties.take(slice(0, 3)) is None
    assert penalties.seen_ids.numel() == penalties.bias_ids.numel() == 0


def test_a_reused_slot_forgets_its_last_row() -> None:
    asking = SamplingParams(frequency_penalty=1.0, logit_bias=((4, 1.0), (5, 1.0)))
    penalties = started([[1, 2, 3]], [asking])
    penalties.record(slice(0, 1), torch.tensor([9]))
    penalties.start(0, [Sequence("", [1], SamplingParams(), 5, ())])
    penalties.record(slice(0, 1), torch.tensor([9]))
    assert penalties.take(slice(0, 1)) is None
    penalties.start(0, [Sequence("", [1], asking, 5, ())])
    scores = scores_of(1)
    assert applied(penalties, scores).tolist()[0] == pytest.approx(
        applied_plainly(scores.tolist()[0], [1], [], asking), abs=1e-5
    )


def test_lists_go_when_no_live_row_asks() -> None:
    asking, plain = SamplingParams(frequency_penalty=1.0), SamplingParams()
    penalties = started([[1], [2], [3]], [asking, plain, asking])
    penalties.start(2, [Sequence("", [1], plain, 5, ())])
    assert penalties.seen_ids.shape == (3, 256)
    penalties.start(0, [Sequence("", [1], plain, 5, ())])
    assert penalties.seen_ids.shape == penalties.counts.shape == (3, 0)


def test_move_and_swap_take_lists_along() -> None:
    params = [SamplingParams(frequency_penalty=1.0), SamplingParams(repetition_penalty=2.0, logit_bias=((4, 1.0),))]
    penalties = started([[1, 2], [3]], params)
    penalties.record(slice(0, 2), torch.tensor([6, 7]))
    rows = [{field.name: getattr(penalties, field.name)[row].clone() for field in fields(penalties)} for row in (0, 1)]
    penalties.swap(0, 1)
    assert all(getattr(penalties, name)[1].equal(value) for name, value in rows[0].items())
    assert all(getattr(penalties, name)[0].equal(value) for name, value in rows[1].items())
    penalties.move(1, 0)
    assert all(getattr(penalties, name)[1].equal(value) for name, value in rows[1].items())


def test_ended_rows_may_be_recorded_past_their_list() -> None:
    """A row's last step may run once more before it leaves."""
    penalties = started([[1]], [SamplingParams(presence_penalty=1.0)], max_new_tokens=255)
    for token in range(258):
        penalties.record(slice(0, 1), torch.tensor([token % 256 + 2]))
    assert penalties.seen_ids.shape[1] == 256
