"""Tokens that a row may not choose, against transformers and beside rows that may choose everything."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.unit.engine.models import EOS, VOCAB_SIZE, byte_pieces
from worker.engine import Engine, Output, Request, RowError, SamplingParams

GREEDY = SamplingParams(max_tokens=16, temperature=0.0, ignore_eos=True)


def prompts(num: int) -> list[list[int]]:
    rng = random.Random(num)
    return [[rng.randrange(3, VOCAB_SIZE) for _ in range(rng.randint(2, 20))] for _ in range(num)]


def decode(engine: Engine, asked: list[tuple[Request, tuple[tuple[int, ...], ...]]]) -> dict[str, Output]:
    """Outputs of requests with bad words given as tokens, decoded together."""
    for request, words in asked:
        group = engine.prepare(request)
        for sequence in group.sequences:
            sequence.bad_words = words
        engine.add(group)
    outputs: dict[str, Output] = {}
    while engine.has_work:
        outputs |= {output.request_id: output for output in engine.step()}
    return outputs


def theirs(model: LlamaForCausalLM, prompt: list[int], **settings: Any) -> list[int]:  # noqa: ANN401
    untyped: Any = model
    ids = untyped.generate(
        torch.tensor([prompt]), max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0, **settings
    )
    return [int(token) for token in ids[0, len(prompt) :]]


def test_bad_words_are_those_of_transformers(llama: tuple[Path, LlamaForCausalLM]) -> None:
    """Words of one, two and three tokens that each answer would say; every row has its own, one has none."""
    folder, model = llama
    engine = Engine.load(folder, rows=5)
    every = prompts(12)
    plain = [output.token_ids for output in engine.generate([Request("", one, params=GREEDY) for one in every])]
    words: list[tuple[tuple[int, ...], ...]] = [()]
    for row, said in enumerate(plain[1:], start=1):
        length = 1 + row % 3
        words.append((tuple(said[4 : 4 + length]), tuple(said[9 : 9 + length]), (7,)))
    requests = [Request(str(row), prompt, params=GREEDY) for row, prompt in enumerate(every)]
    outputs = decode(engine, list(zip(requests, words, strict=True)))
    for row, (prompt, some) in enumerate(zip(every, words, strict=True)):
        # Theirs looks at the prompt, too: no word of several tokens begins with its last one here.
        assert not any(word[0] in prompt[-2:] for word in some if len(word) > 1)
        expected = theirs(model, prompt, bad_words_ids=[[*word] for word in some]) if some else plain[row]
        assert outputs[str(row)].token_ids == expected
    assert sum(outputs[str(row)].token_ids != said for row, said in enumerate(plain)) >= 10


def test_allowed_tokens_are_those_of_transformers(llama: tuple[Path, LlamaForCausalLM]) -> None:
    folder, model = llama
    engine = Engine.load(folder, rows=3)
    rng = random.Random(1)
    every = prompts(7)
    allowed = [tuple(rng.sample(range(3, VOCAB_SIZE), size)) for size in (1, 2, 5, 40, 100, 150)]
    params = [GREEDY, *(replace(GREEDY, allowed_token_ids=ids) for ids in allowed)]
    outputs = engine.generate([Request("", one, params=some) for one, some in zip(every, params, strict=True)])
    for prompt, ids, output in zip(every[1:], allowed, outputs[1:], strict=True):
        assert output.token_ids == theirs(model, prompt, prefix_allowed_tokens_fn=lambda *_, ids=ids: [*ids])
    assert outputs[0] == engine.generate([Request("", every[0], params=GREEDY)])[0]


def test_sampled_tokens_are_allowed_ones(folder: Path) -> None:
    params = SamplingParams(max_tokens=50, temperature=3.0, allowed_token_ids=(5, 6, 9), top_p=0.9, n=4)
    outputs = Engine.load(folder, rows=8).generate([Request("", [3, 4], params=params)])
    assert {token for answer in outputs[0].completions for token in answer.token_ids} == {5, 6, 9}


def test_stop_token_ends_only_where_it_is_allowed(folder: Path) -> None:
    engine = Engine.load(folder, rows=2)
    params = SamplingParams(max_tokens=30, temperature=2.0, allowed_token_ids=(EOS, 5), min_tokens=4)
    [output] = engine.generate([Request("", [3], params=params)])
    assert output.finish_reason == "stop"
    assert len(output.token_ids) >= 4
    [output] = engine.generate([Request("", [3], params=replace(params, allowed_token_ids=(5,)))])
    assert output.token_ids == [5] * 30


def test_a_row_always_has_something_to_say(folder: Path) -> None:
    """Its only token is a bad word: it is said all the same, and is no error of the numbers."""
    engine = Engine.load(folder, rows=2)
    for temperature in (0.0, 1.0):
        params = replace(GREEDY, temperature=temperature, allowed_token_ids=(5,))
        outputs = decode(engine, [(Request("r", [3], params=params), ((5,), (5, 5)))])
        assert outputs["r"].token_ids == [5] * 16


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"bad_words": ("ab",)}, {(97, 98)}),
        ({"bad_words": (" ab", "c")}, {(97, 98), (99,)}),
        ({"bad_words": ("a", "a")}, {(97,)}),
    ],
)
def test_words_are_banned_as_their_tokens(text_engine: Engine, params: dict[str, Any], words: set[object]) -> None:
    assert byte_pieces()[97] == b"a"
    [sequence] = text_engine.prepare(Request("r", "x", params=SamplingParams(**params))).sequences
    assert set(sequence.bad_words) == words


def test_banned_words_are_not_said(text_engine: Engine) -> None:
    [plain] = text_engine.generate([Request("r", "some text", params=GREEDY)])
    bad = tuple(plain.text[start : start + 2] for start in range(0, 8, 2) if plain.text[start : start + 2].strip())
    [output] = text_engine.generate([Request("r", "some text", params=replace(GREEDY, bad_words=bad))])
    assert output.text != plain.text
    assert not any(word.lstrip() in output.text for word in bad)


def test_words_need_a_tokenizer_and_a_choice_a_token(folder: Path, text_engine: Engine) -> None:
    with pytest.raises(RowError, match="bad_words"):
        Engine.load(folder, rows=1).prepare(Request("r", [5], params=SamplingParams(bad_words=("a",))))
    with pytest.raises(RowError, match=r"bad_words\[1\] holds no token"):
        text_engine.prepare(Request("r", [5], params=SamplingParams(bad_words=("a", " "))))
    with pytest.raises(RowError, match="more than the stop tokens"):
        text_engine.prepare(Request("r", [5], params=SamplingParams(allowed_token_ids=(EOS,), min_tokens=1)))


def test_memory_is_given_back_with_the_last_row_that_asked(folder: Path) -> None:
    engine = Engine.load(folder, rows=2)
    engine.generate([Request("", [3], params=replace(GREEDY, allowed_token_ids=(5,)))])
    engine.generate([Request("", [3], params=GREEDY)])
    assert not engine._rows.bans.allowed.shape[1]
