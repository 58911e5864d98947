"""Several answers to one prompt, and rows that outgrow the context."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.unit.engine.models import VOCAB_SIZE, ragged_requests, tiny_llama
from worker.engine import Engine, Output, Request, SamplingParams
from worker.engine.native import build
from worker.engine.randomness import derive_seed

SAMPLED = SamplingParams(max_tokens=12, temperature=1.0, seed=11)


@pytest.fixture
def _without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "COMPILERS", ())


def test_each_answer_is_the_one_its_seed_gives_alone(folder: Path) -> None:
    engine = Engine.load(folder, rows=6)
    prompt = [5, 6, 7, 8]
    (output,) = engine.generate([Request("a", prompt, params=replace(SAMPLED, n=4))])
    assert len({tuple(answer.token_ids) for answer in output.completions}) > 1
    for answer, completion in enumerate(output.completions):
        alone = replace(SAMPLED, seed=derive_seed(SAMPLED.seed, answer))
        assert engine.generate([Request("b", prompt, params=alone)])[0].completions == (completion,)


def test_answers_of_one_request_may_decode_one_after_the_other(folder: Path) -> None:
    requests = [replace(request, params=replace(request.params, n=3)) for request in ragged_requests(9, sampled=True)]
    expected = Engine.load(folder, rows=27).generate(requests)
    assert Engine.load(folder, rows=2).generate(requests) == expected
    assert all(len(output.completions) == 3 for output in expected)


def test_the_likeliest_of_best_of_are_returned_best_first(folder: Path) -> None:
    engine = Engine.load(folder, rows=8)
    params = replace(SAMPLED, n=6)
    (every,) = engine.generate([Request("a", [9, 10], params=params)])
    (best,) = engine.generate([Request("a", [9, 10], params=replace(params, n=2, best_of=6))])
    means = [sum(answer.logprobs) / len(answer.logprobs) for answer in every.completions]
    order = sorted(range(6), key=lambda index: -means[index])
    assert best.completions == tuple(every.completions[index] for index in order[:2])


def test_stop_strings_end_each_answer_for_itself(text_engine: Engine) -> None:
    params = SamplingParams(max_tokens=30, temperature=1.2, seed=3, stop=("a", "e", "1", "T", "<"), n=8)
    (output,) = text_engine.generate([Request("a", "hello", params=params)])
    for answer, completion in enumerate(output.completions):
        alone = replace(params, n=1, seed=derive_seed(3, answer))
        assert text_engine.generate([Request("b", "hello", params=alone)])[0].completions == (completion,)
    assert "stop" in {completion.finish_reason for completion in output.completions}


def test_cancel_drops_every_answer(folder: Path) -> None:
    engine = Engine.load(folder, rows=3)
    engine.add(engine.prepare(Request("many", [3, 4], params=replace(SAMPLED, n=5))))
    engine.add(engine.prepare(Request("one", [3, 4], params=SAMPLED)))
    engine.step()
    assert engine.cancel("many")
    assert not engine.cancel("many")
    outputs: list[Output] = []
    while engine.has_work:
        outputs += engine.step()
    assert [output.request_id for output in outputs] == ["one"]
    assert engine.num_free == 3


def cropped(model: LlamaForCausalLM, prompt: list[int], num_tokens: int, context: int) -> tuple[list[int], list[float]]:
    """Greedy tokens and logprobs of a model that sees the newest tokens alone, from position 0, at each step."""
    tokens, logprobs = list(prompt), []
    for _ in range(num_tokens):
        with torch.no_grad():
            scores = model(torch.tensor([tokens[-context:]])).logits[0, -1].log_softmax(-1)
        tokens.append(int(scores.argmax()))
        logprobs.append(scores.max().item())
    return tokens[len(prompt) :], logprobs


def crop_requests() -> list[Request]:
    rng = random.Random(3)
    crop = SamplingParams(temperature=0.0, context_overflow="crop", ignore_eos=True)
    lengths = [(1, 40), (10, 30), (31, 8), (32, 8), (33, 5), (70, 9), (5, 3), (20, 13)]
    return [
        Request(
            f"{num}-{out}", [rng.randrange(3, VOCAB_SIZE) for _ in range(num)], params=replace(crop, max_tokens=out)
        )
        for num, out in lengths
    ]


@pytest.mark.parametrize("kernel", [True, False])
def test_crop_sees_the_newest_tokens_from_position_zero(
    tmp_path: Path, kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernel:
        monkeypatch.setattr(build, "COMPILERS", ())
    model = tiny_llama(tmp_path, max_position_embeddings=32)
    requests = crop_requests()
    engine = Engine.load(tmp_path, rows=5)
    plain = Request("plain", [4, 5, 6], params=SamplingParams(max_tokens=20, temperature=0.0, ignore_eos=True))
    outputs = engine.generate([*requests, plain])
    for request, output in zip(requests, outputs, strict=False):
        assert isinstance(request.prompt, list)
        tokens, logprobs = cropped(model, request.prompt, request.params.max_tokens or 0, 32)
        assert output.token_ids == tokens, request.id
        assert output.logprobs == pytest.approx(logprobs, abs=1e-4)
        assert output.prompt_token_ids == request.prompt
    assert outputs[-1] == engine.generate([plain])[0]


def test_overflow_is_refused_unless_cropping_was_asked_for(tmp_path: Path) -> None:
    tiny_llama(tmp_path, max_position_embeddings=32)
    (output,) = Engine.load(tmp_path, rows=1).generate([Request("a", [3] * 20, params=SamplingParams(max_tokens=13))])
    assert output.error is not None
    assert output.error.code == "context_length_exceeded"
    assert all(number in output.error.message for number in ("20", "13", "32"))


@pytest.mark.usefixtures("_without_compiler")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_without_a_compiler_the_law_holds_and_the_reason_is_said(folder: Path, dtype: str) -> None:
    requests = ragged_requests(20, max_prompt=100, max_tokens=24, sampled=True)
    engine = Engine.load(folder, rows=20, dtype=dtype)
    assert "no C++ compiler" in engine.info.fast_paths["attention"]
    expected = engine.generate(requests)
    assert Engine.load(folder, rows=3, dtype=dtype).generate(requests) == expected
    assert engine.stats()["prefix_hits"] == 0
    assert engine.info.fingerprint.endswith("-torch")


def test_the_fingerprint_names_the_attention(folder: Path) -> None:
    info = Engine.load(folder, rows=1).info
    assert info.fast_paths == {"linear": "oneDNN packed", "attention": "compiled", "operations": "compiled"}
    assert info.fingerprint.endswith("-compiled")
