"""What an output says of its prompt, through the engine, against Hugging Face's logits."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.unit.engine.models import VOCAB_SIZE, ragged_requests
from worker.engine import Engine, Request, SamplingParams, runner
from worker.engine.echo import with_prompt
from worker.engine.sequence import PromptScores, Sequence
from worker.engine.types import Completion, Output, RowError, TokenLogprobs

GREEDY = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine.load(folder, rows=5)


def prompts(num: int, *, longest: int = 90) -> list[list[int]]:
    rng = random.Random(num)
    return [[rng.randrange(3, VOCAB_SIZE) for _ in range(rng.randint(1, longest))] for _ in range(num)]


def assert_scored(details: list[TokenLogprobs] | None, model: LlamaForCausalLM, prompt: list[int], num: int) -> None:
    """Compare what is said of a prompt's tokens with Hugging Face's logits."""
    assert details is not None
    assert [detail.token_id for detail in details] == prompt
    assert (details[0].logprob, details[0].rank, details[0].top) == (None, None, ())
    with torch.no_grad():
        logprobs = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    for position, detail in enumerate(details[1:]):
        expected = logprobs[position]
        assert detail.logprob == pytest.approx(expected[detail.token_id].item(), abs=1e-4)
        assert detail.rank == int((expected > expected[detail.token_id]).sum()) + 1
        top = expected.topk(num)
        assert [token_id for _, token_id, _ in detail.top] == top.indices.tolist()
        assert [logprob for *_, logprob in detail.top] == pytest.approx(top.values.tolist(), abs=1e-4)


def test_prompt_logprobs_are_hugging_faces(engine: Engine, llama: tuple[Path, LlamaForCausalLM]) -> None:
    requests = [
        Request(str(index), prompt, params=replace(GREEDY, prompt_logprobs=index % 4))
        for index, prompt in enumerate(prompts(12))
    ]
    for index, output in enumerate(engine.generate(requests)):
        assert_scored(output.prompt_details, llama[1], output.prompt_token_ids, index % 4)
        assert output.details is None


def test_scoring_changes_no_bit_of_answers_or_neighbours(folder: Path) -> None:
    requests = ragged_requests(16, max_prompt=150, sampled=True)
    expected = Engine.load(folder, rows=5).generate(requests)
    rng = random.Random(2)
    scored = [replace(item, params=replace(item.params, prompt_logprobs=rng.choice([None, 0, 5]))) for item in requests]
    outputs = Engine.load(folder, rows=5).generate(scored)
    assert [replace(output, prompt_details=None) for output in outputs] == expected
    alone = Engine.load(folder, rows=1).generate(scored)
    assert alone == outputs


def test_a_token_has_one_logprob_however_it_is_asked_for(engine: Engine) -> None:
    """As generated, among its own alternatives, and as a token of a longer prompt."""
    params = replace(GREEDY, max_tokens=20, top_logprobs=1)
    requests = [Request(str(index), prompt, params=params) for index, prompt in enumerate(prompts(8))]
    outputs = engine.generate(requests)
    again = [[*output.prompt_token_ids, *output.token_ids] for output in outputs]
    score = SamplingParams(max_tokens=0, prompt_logprobs=0)
    scored = engine.generate([Request(str(index), prompt, params=score) for index, prompt in enumerate(again)])
    for output, prompt in zip(outputs, scored, strict=True):
        assert output.details is not None
        assert prompt.prompt_details is not None
        assert [detail.top[0][2] for detail in output.details] == output.logprobs
        logprobs = [detail.logprob for detail in prompt.prompt_details[-20:]]
        assert logprobs == pytest.approx(output.logprobs, abs=1e-5)  # bits: where attention is the compiled kernel


def test_long_prompts_are_scored_piece_by_piece(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = replace(GREEDY, prompt_logprobs=3)
    requests = [Request(str(index), prompt, params=params) for index, prompt in enumerate(prompts(4, longest=240))]
    expected = Engine.load(folder, rows=5).generate(requests)
    monkeypatch.setattr(runner, "PREFILL_TOKENS", 48)
    assert Engine.load(folder, rows=5).generate(requests) == expected


def test_a_shared_beginning_is_scored_all_the_same(folder: Path, llama: tuple[Path, LlamaForCausalLM]) -> None:
    head = prompts(1, longest=200)[0] * 9
    engine = Engine.load(folder, rows=5)
    plain = [Request(str(index), [*head[:150], index + 3], params=GREEDY) for index in range(6)]
    engine.generate(plain)
    scored = [replace(request, params=replace(GREEDY, prompt_logprobs=1)) for request in plain]
    for output in engine.generate(scored):
        assert_scored(output.prompt_details, llama[1], output.prompt_token_ids, 1)


@pytest.mark.parametrize("prompt", [[7], [7, 8, 9], [5] * 256])
def test_no_tokens_are_generated_where_the_prompt_is_scored_only(
    engine: Engine, llama: tuple[Path, LlamaForCausalLM], prompt: list[int]
) -> None:
    params = SamplingParams(max_tokens=0, echo=True, top_logprobs=2, stop_token_ids=(5,))
    (output,) = engine.generate([Request("a", prompt, params=params)])
    assert output.error is None
    assert (output.token_ids, output.logprobs, output.finish_reason) == ([], [], "length")
    assert_scored(output.details, llama[1], prompt, 2)
    assert output.prompt_details is None


def test_each_answer_begins_with_the_prompt(text_engine: Engine) -> None:
    params = SamplingParams(max_tokens=7, temperature=1.2, seed=4, n=3, top_logprobs=1)
    plain, echoed = text_engine.generate(
        [Request("a", "hello there", params=params), Request("b", "hello there", params=replace(params, echo=True))]
    )
    assert len(echoed.completions) == 3
    for one, other in zip(plain.completions, echoed.completions, strict=True):
        assert other.text == "hello there" + one.text
        assert (other.token_ids, other.logprobs) == (one.token_ids, one.logprobs)
        assert one.details is not None
        assert other.details is not None
        head, tail = other.details[:11], other.details[11:]
        assert "".join(detail.token for detail in head) == "hello there"
        assert [detail.text_offset for detail in head] == list(range(11))
        assert [replace(detail, text_offset=detail.text_offset - 11) for detail in tail] == one.details


def test_echo_without_logprobs_echoes_text_alone(text_engine: Engine) -> None:
    params = replace(GREEDY, echo=True, stop=("\x00",))
    (output,) = text_engine.generate([Request("a", "hello", params=params)])
    assert output.text.startswith("hello")
    assert output.details is None
    scored = replace(params, max_tokens=0, prompt_logprobs=0)
    (output,) = text_engine.generate([Request("a", "hello", params=scored)])
    assert output.text == "hello"
    assert output.prompt_details is not None
    assert [detail.token for detail in output.prompt_details] == list("hello")


def test_beams_echo_and_score_the_prompt(text_engine: Engine) -> None:
    params = SamplingParams(max_tokens=6, use_beam_search=True, n=2, best_of=3)
    plain, echoed = text_engine.generate(
        [
            Request("a", "hello", params=params),
            Request("b", "hello", params=replace(params, echo=True, top_logprobs=0, prompt_logprobs=2)),
        ]
    )
    assert [answer.text for answer in echoed.completions] == ["hello" + answer.text for answer in plain.completions]
    assert echoed.details is not None
    assert echoed.prompt_details is not None
    assert [detail.logprob for detail in echoed.details[:5]] == [detail.logprob for detail in echoed.prompt_details]
    assert len(echoed.details) == 5 + len(echoed.token_ids)


def test_scores_that_are_no_numbers_are_an_error() -> None:
    params = SamplingParams(prompt_logprobs=0)
    first = Sequence("a", [1, 2, 3], params, 1, (), prompt_scores=PromptScores([-1.0, float("nan")], [1, 1], [(), ()]))
    with pytest.raises(RowError, match="not numbers"):
        with_prompt(Output("a", [1, 2, 3], (Completion(),)), params, first, tokenizer=None)


def test_broken_prompt_scores_fail_their_row(folder: Path) -> None:
    engine = Engine.load(folder, rows=2)
    with torch.no_grad():
        engine.weights.embedding[50] = torch.nan
    params = replace(GREEDY, max_tokens=0, prompt_logprobs=0)
    bad, good = engine.generate([Request("a", [50, 3], params=params), Request("b", [4, 3], params=params)])
    assert bad.error is not None
    assert bad.error.code == "nonfinite_logits"
    assert good.error is None
