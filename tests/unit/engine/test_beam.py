"""Beam search alone: the beams and scores that transformers' generate gives, over an uncached forward pass."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.unit.engine.models import tiny_llama
from worker.engine.beam import BeamSearch, EarlyStopping, Hypothesis
from worker.engine.sampling import top_logprobs

VOCAB_SIZE = 24  # few tokens, so that stop tokens are often among the best
CASES = 96


@cache
def llama(scale: float) -> LlamaForCausalLM:
    with TemporaryDirectory() as folder:
        return tiny_llama(Path(folder), scale=scale, vocab_size=VOCAB_SIZE)


@dataclass(frozen=True)
class Case:
    """A random prompt and the settings of its search."""

    scale: float
    prompt: list[int]
    num_beams: int
    num_returned: int
    max_new_tokens: int
    min_tokens: int
    length_penalty: float
    early_stopping: EarlyStopping
    stop_token_ids: list[int]


def random_case(seed: int) -> Case:
    rng = random.Random(seed)
    num_beams = rng.randint(2, 4)
    max_new_tokens = rng.choice([1, 2, 5, 12, 20])
    return Case(
        scale=rng.choice([2.0, 3.0, 4.0]),
        prompt=[rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, 12))],
        num_beams=num_beams,
        num_returned=rng.randint(1, num_beams),
        max_new_tokens=max_new_tokens,
        min_tokens=min(max_new_tokens, rng.choice([0, 0, 0, 4])),
        length_penalty=rng.choice([-1.0, 0.0, 0.5, 1.0, 2.0]),
        early_stopping=rng.choice([True, False, "never"]),
        stop_token_ids=rng.sample(range(VOCAB_SIZE), rng.choice([0, 1, 2, 3])),
    )


def search(case: Case, completes_stop: Callable[[list[int]], bool] | None = None) -> BeamSearch:
    return BeamSearch(
        num_beams=case.num_beams,
        max_new_tokens=case.max_new_tokens,
        stop_token_ids=frozenset(case.stop_token_ids),
        length_penalty=case.length_penalty,
        early_stopping=case.early_stopping,
        min_tokens=case.min_tokens,
        completes_stop=completes_stop,
    )


@torch.inference_mode()
def run(beams: BeamSearch, model: LlamaForCausalLM, prompt: list[int]) -> None:
    """Drive a search by whole forward passes."""
    rows = [prompt]
    while not beams.done:
        scores = model(torch.tensor(rows)).logits[:, -1].float()
        values, ids = top_logprobs(scores, list(range(len(rows))), beams.num_candidates)
        rows = [[*rows[beam.row], beam.token_id] for beam in beams.advance(ids.tolist(), values.tolist())]


def expected(case: Case, **more: object) -> list[tuple[list[int], float]]:
    """Tokens (stop token included, padding cut) and score of each beam that transformers returns."""
    model: Any = llama(case.scale)
    out = model.generate(
        torch.tensor([case.prompt]),
        attention_mask=torch.ones(1, len(case.prompt), dtype=torch.int64),
        num_beams=case.num_beams,
        num_return_sequences=case.num_returned,
        max_new_tokens=case.max_new_tokens,
        min_new_tokens=case.min_tokens,
        length_penalty=case.length_penalty,
        early_stopping=case.early_stopping,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        eos_token_id=case.stop_token_ids or None,
        **more,
    )
    lengths = (out.beam_indices >= 0).sum(-1).tolist()
    generated = out.sequences[:, len(case.prompt) :].tolist()
    return [
        (ids[:length], score)
        for ids, length, score in zip(generated, lengths, out.sequences_scores.tolist(), strict=True)
    ]


def assert_same(found: list[Hypothesis], wanted: list[tuple[list[int], float]]) -> None:
    assert [one.token_ids for one in found] == [ids for ids, _ in wanted]
    assert [one.score for one in found] == pytest.approx([score for _, score in wanted], abs=1e-4, rel=1e-5)


@pytest.mark.parametrize("seed", range(CASES))
def test_beams_equal_transformers(seed: int) -> None:
    case = random_case(seed)
    beams = search(case)
    run(beams, llama(case.scale), case.prompt)
    assert_same(beams.best(case.num_returned), expected(case))


@pytest.mark.parametrize("seed", range(24))
def test_beams_that_end_by_their_text_equal_transformers(seed: int) -> None:
    case = replace(random_case(seed), min_tokens=0, max_new_tokens=20)

    def completes_stop(token_ids: list[int]) -> bool:
        return token_ids[-1] % 3 == 0 and len(token_ids) > 1

    def criterion(token_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        return torch.tensor([completes_stop(row) for row in token_ids[:, len(case.prompt) :].tolist()])

    beams = search(case, completes_stop)
    run(beams, llama(case.scale), case.prompt)
    assert_same(beams.best(case.num_returned), expected(case, stopping_criteria=[criterion]))


def test_random_cases_reach_every_way_to_end() -> None:
    """Guards the test above: beams that stop, that run out of tokens, and searches that give up early."""
    ends = set()
    for seed in range(CASES):
        case = random_case(seed)
        beams = search(case)
        run(beams, llama(case.scale), case.prompt)
        best = beams.best(1)[0]
        ends.add(("gave up" if beams.live else "to the end", best.token_ids[-1] in case.stop_token_ids))
    assert ends == {("gave up", True), ("to the end", True), ("to the end", False)}


@torch.inference_mode()
def test_logprobs_are_those_of_the_raw_scores() -> None:
    case = random_case(3)
    beams = search(case)
    run(beams, llama(case.scale), case.prompt)
    for one in beams.best(case.num_beams):
        scores = llama(case.scale)(torch.tensor([case.prompt + one.token_ids])).logits[0]
        logprobs = scores.log_softmax(-1)[len(case.prompt) - 1 : -1]
        chosen = logprobs.gather(1, torch.tensor(one.token_ids)[:, None])[:, 0]
        assert one.logprobs == pytest.approx(chosen.tolist(), abs=1e-4)
        assert one.score == pytest.approx(sum(one.logprobs) / len(one.logprobs) ** case.length_penalty)


def advance(beams: BeamSearch, *rows: dict[int, float]) -> list[tuple[int, int]]:
    ordered = [sorted(row.items(), key=lambda item: -item[1]) for row in rows]
    chosen = beams.advance(
        [[token_id for token_id, _ in row] for row in ordered], [[logprob for _, logprob in row] for row in ordered]
    )
    return [(beam.row, beam.token_id) for beam in chosen]


def tokens(found: list[Hypothesis]) -> list[list[int]]:
    return [one.token_ids for one in found]


def test_beams_fork_and_die() -> None:
    beams = BeamSearch(num_beams=2, max_new_tokens=5, stop_token_ids=frozenset())
    assert advance(beams, {5: -1.0, 6: -2.0, 7: -3.0}) == [(0, 5), (0, 6)]
    assert advance(beams, {5: -3.0, 8: -4.0}, {5: -0.5, 9: -1.0}) == [(1, 5), (1, 9)]


def test_equal_beams_fall_to_the_earlier_beam_and_the_lower_token() -> None:
    beams = BeamSearch(num_beams=2, max_new_tokens=5, stop_token_ids=frozenset())
    assert advance(beams, {7: -1.0, 5: -1.0, 6: -1.0}) == [(0, 5), (0, 6)]
    assert advance(beams, {8: -1.0, 9: -2.0}, {3: -1.0, 4: -2.0}) == [(0, 8), (1, 3)]


def test_live_beams_are_left_when_every_stop_token_is_among_the_best() -> None:
    beams = BeamSearch(2, 100, frozenset({1, 2, 3}), length_penalty=2.0, early_stopping="never")
    first = {1: -0.1, 2: -0.2, 3: -0.3, 7: -8.0, 8: -9.0}
    assert advance(beams, first) == [(0, 7), (0, 8)]


@pytest.mark.parametrize(("early_stopping", "gives_up"), [(True, True), (False, True), ("never", False)])
def test_only_a_search_that_never_stops_early_hopes_for_the_longest_beam(
    early_stopping: EarlyStopping, gives_up: bool
) -> None:
    beams = BeamSearch(1, 100, frozenset({2}), length_penalty=2.0, early_stopping=early_stopping)
    advance(beams, {2: -1.0, 6: -1.5})
    assert beams.done == gives_up


@pytest.mark.parametrize(("early_stopping", "gives_up"), [(True, True), (False, False), ("never", False)])
def test_a_search_goes_on_while_a_live_beam_beats_a_finished_one(early_stopping: EarlyStopping, gives_up: bool) -> None:
    beams = BeamSearch(2, 100, frozenset({2}), early_stopping=early_stopping)
    advance(beams, {6: -0.1, 2: -3.0, 7: -9.0})
    advance(beams, {2: -0.1, 6: -0.2}, {6: -1.0, 7: -2.0})
    assert beams.done == gives_up


def test_stop_token_counts_in_the_length_of_the_score() -> None:
    beams = BeamSearch(num_beams=1, max_new_tokens=5, stop_token_ids=frozenset({2}), early_stopping=True)
    advance(beams, {5: -1.0, 6: -2.0})
    assert advance(beams, {2: -0.5, 6: -2.0}) == []
    assert beams.best(1) == [Hypothesis([5, 2], [-1.0, -0.5], [(), ()], -0.75)]


def test_beam_whose_text_completes_a_stop_string_is_finished() -> None:
    beams = BeamSearch(
        num_beams=2,
        max_new_tokens=9,
        stop_token_ids=frozenset(),
        early_stopping=True,
        completes_stop=lambda token_ids: token_ids[-2:] == [5, 6],
    )
    advance(beams, {5: -0.1, 7: -3.0})
    assert advance(beams, {6: -0.1, 7: -2.0}, {6: -0.1, 5: -2.0}) == [(0, 7), (1, 6)]
    assert tokens(beams.best(2)) == [[5, 6]]


def test_first_beam_stands_in_for_missing_ones() -> None:
    """A stop string may end more beams than candidates were held ready for."""
    beams = BeamSearch(
        num_beams=2,
        max_new_tokens=9,
        stop_token_ids=frozenset(),
        completes_stop=lambda token_ids: token_ids[-1] > 5,
    )
    assert advance(beams, {5: -1.0, 6: -1.5, 7: -2.0, 8: -3.0}) == [(0, 5), (0, 5)]
    assert tokens(beams.best(2)) == [[6]]
    assert advance(beams, {4: -1.0, 3: -2.0}, {4: -1.0, 3: -2.0}) == [(0, 4), (0, 3)]


def test_search_ends_when_every_continuation_ends() -> None:
    beams = BeamSearch(num_beams=2, max_new_tokens=9, stop_token_ids=frozenset(), completes_stop=lambda _: True)
    assert advance(beams, {6: -1.0, 7: -2.0, 8: -3.0, 5: -4.0}) == []
    assert beams.done
    assert tokens(beams.best(2)) == [[6], [7]]


def test_alternatives_are_kept_along_the_beam() -> None:
    beams = BeamSearch(num_beams=2, max_new_tokens=2, stop_token_ids=frozenset(), num_top=1)
    advance(beams, {5: -1.0, 6: -2.0})
    advance(beams, {5: -3.0, 8: -4.0}, {5: -0.5, 9: -1.0})
    assert [one.top for one in beams.best(2)] == [[((5, -1.0),), ((5, -0.5),)], [((5, -1.0),), ((5, -0.5),)]]
