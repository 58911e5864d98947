"""Beam search through the engine: transformers' beams, among rows of other requests, bit for bit as alone."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.unit.engine.models import EOS, VOCAB_SIZE, ragged_requests, slots_of, tiny_llama
from worker.engine import Engine, Output, Request, RowError, SamplingParams
from worker.engine.beam import BeamSearch
from worker.engine.sampling import top_logprobs

BEAMS = SamplingParams(max_tokens=12, use_beam_search=True, n=3)
ENDS = {"stop", "length"}


def beam_requests(num: int) -> list[Request]:
    """Random prompts and searches; stop tokens of their own, since the model's is rarely likely."""
    rng = random.Random(num)
    requests = []
    for index in range(num):
        best_of = rng.randint(1, 4)
        params = SamplingParams(
            max_tokens=rng.choice([1, 3, 20, 30]),
            use_beam_search=True,
            best_of=best_of,
            n=rng.randint(1, best_of),
            length_penalty=rng.choice([-1.0, 0.0, 1.0, 2.0]),
            early_stopping=rng.choice([True, False, "never"]),
            stop_token_ids=tuple(rng.sample(range(3, VOCAB_SIZE), 8)),
            ignore_eos=rng.random() < 0.2,
            min_tokens=rng.choice([0, 0, 1]),
            top_logprobs=rng.choice([None, 2]),
        )
        prompt = [rng.randrange(3, VOCAB_SIZE) for _ in range(rng.randint(1, 90))]
        requests.append(Request(f"beams{index}", prompt, params=params))
    return requests


def expected(llama: LlamaForCausalLM, request: Request, **more: object) -> list[tuple[list[int], float]]:
    """Answer tokens and score of each beam that transformers returns."""
    prompt, params, model = list(request.prompt or ()), request.params, cast(Any, llama)
    stops = [*params.stop_token_ids] if params.ignore_eos else [EOS, *params.stop_token_ids]
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        num_beams=params.best_of,
        num_return_sequences=params.n,
        max_new_tokens=params.max_tokens,
        min_new_tokens=params.min_tokens,
        length_penalty=params.length_penalty,
        early_stopping=params.early_stopping,
        eos_token_id=stops,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        **more,
    )
    answers = []
    for ids, lengths, score in zip(out.sequences, out.beam_indices, out.sequences_scores.tolist(), strict=True):
        generated = ids[len(prompt) :][: int((lengths >= 0).sum())].tolist()
        answers.append((generated[:-1] if generated[-1] in stops else generated, score))
    return answers


def test_beams_among_other_rows_equal_transformers(llama: tuple[Path, LlamaForCausalLM]) -> None:
    folder, model = llama
    requests = [request for request in beam_requests(14) if (request.params.best_of or 0) > 1]
    mixed = [*requests, *ragged_requests(12, sampled=True)]
    random.Random(1).shuffle(mixed)
    outputs = {output.request_id: output for output in Engine.load(folder, rows=9).generate(mixed)}
    assert {answer.finish_reason for request in requests for answer in outputs[request.id].completions} == ENDS
    for request in requests:
        wanted = expected(model, request)
        found = outputs[request.id].completions
        assert [answer.token_ids for answer in found] == [ids for ids, _ in wanted], request
        assert [answer.score for answer in found] == pytest.approx([score for _, score in wanted], abs=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_beams_and_their_neighbours_are_as_alone(folder: Path, dtype: str) -> None:
    requests = [*beam_requests(8), *ragged_requests(10, sampled=True)]
    random.Random(2).shuffle(requests)
    alone = [Engine.load(folder, rows=4, dtype=dtype).generate([request])[0] for request in requests]
    for rows in (4, 7, 40):
        assert Engine.load(folder, rows=rows, dtype=dtype).generate(requests) == alone


def refusal(engine: Engine, **changes: object) -> str:
    with pytest.raises(RowError) as error:
        engine.prepare(Request("a", [5, 6], params=replace(BEAMS, **changes)))  # type: ignore[arg-type]
    return f"{error.value.code}: {error.value.message}"


def test_beams_that_cannot_be_in_rows_at_once_are_refused(folder: Path) -> None:
    engine = Engine.load(folder, rows=3)
    assert refusal(engine, best_of=4) == "invalid_value: best_of is 4 beams, but the engine has 3 rows"
    slots_of(engine)._full_budget_tokens = 600
    assert "3 beams of 13 tokens exceed the engine's cache" in refusal(engine)


def test_cancelled_beams_leave_their_rows(folder: Path) -> None:
    engine = Engine.load(folder, rows=4)
    (alone,) = engine.generate([Request("a", [9, 10, 11], params=BEAMS)])
    for request_id in ("running", "waiting"):
        engine.add(engine.prepare(Request(request_id, [3, 4], params=BEAMS)))
    engine.step()
    assert (engine.num_live, engine.num_waiting) == (3, 3)
    assert engine.cancel("running")
    assert engine.cancel("waiting")
    engine.add(engine.prepare(Request("next", [9, 10, 11], params=BEAMS)))
    outputs: list[Output] = []
    while engine.has_work:
        outputs += engine.step()
    assert outputs == [replace(alone, request_id="next")]
    assert engine.num_free == 4


@pytest.mark.parametrize("min_tokens", [0, 4])
def test_beams_ended_by_stop_strings_equal_transformers(
    llama: tuple[Path, LlamaForCausalLM], text_engine: Engine, min_tokens: int
) -> None:
    tokenizer = text_engine._preparer.tokenizer
    assert tokenizer is not None
    stops = ("a", "e", "T", "<", "5")
    params = replace(BEAMS, max_tokens=20, stop=stops, best_of=4, include_stop_str_in_output=True)
    params = replace(params, min_tokens=min_tokens)
    for prompt in ([5, 6, 7], [8], [20, 30, 40, 50], [77, 12]):

        def hits(ids: torch.Tensor, scores: object, start: int = len(prompt), **_: object) -> torch.Tensor:
            texts = [tokenizer.decode(row, skip_special_tokens=True) for row in ids[:, -1:].tolist()]
            may_stop = ids.shape[1] - start >= min_tokens
            return torch.tensor([may_stop and any(stop in text for stop in stops) for text in texts])

        request = Request("a", prompt, params=params)
        (output,) = text_engine.generate([request])
        wanted = expected(llama[1], request, stopping_criteria=[hits])
        assert [answer.token_ids for answer in output.completions] == [ids for ids, _ in wanted]
        assert [answer.score for answer in output.completions] == pytest.approx([score for _, score in wanted])
        assert all(answer.text.endswith(stops) == (answer.finish_reason == "stop") for answer in output.completions)


def test_stop_string_is_cut_from_a_beam_but_counts_in_its_score(text_engine: Engine) -> None:
    (whole,) = text_engine.generate([Request("a", [5, 6, 7], params=BEAMS)])
    stop = whole.text[4:6]
    params = replace(BEAMS, stop=(stop,))
    (kept,) = text_engine.generate([Request("a", [5, 6, 7], params=replace(params, include_stop_str_in_output=True))])
    (cut,) = text_engine.generate([Request("a", [5, 6, 7], params=params)])
    pairs = list(zip(kept.completions, cut.completions, strict=True))
    assert "stop" in {one.finish_reason for one, _ in pairs}
    for one, other in pairs:
        assert one.text == other.text + (stop if one.finish_reason == "stop" else "")
        assert one.token_ids[: len(other.token_ids)] == other.token_ids
        assert (one.score, one.finish_reason) == (other.score, other.finish_reason)


def test_beams_keep_alternatives_of_their_own_tokens(folder: Path) -> None:
    (output,) = Engine.load(folder, rows=3).generate([Request("a", [5, 6], params=replace(BEAMS, top_logprobs=5))])
    for answer in output.completions:
        assert answer.details is not None
        assert [one.token_id for one in answer.details] == answer.token_ids
        for one in answer.details:
            assert one.logprob == dict((other, logprob) for _, other, logprob in one.top)[one.token_id]
            assert len(one.top) == 5


def test_beams_show_their_prompt_as_other_answers_do(folder: Path) -> None:
    params = replace(BEAMS, echo=True, top_logprobs=2, prompt_logprobs=1)
    beams, sampled = (
        Engine.load(folder, rows=3).generate([Request("a", [5, 6, 7], params=one)])[0]
        for one in (params, replace(params, use_beam_search=False))
    )
    assert beams.prompt_details == sampled.prompt_details is not None
    assert all(answer.details and answer.details[:3] == (sampled.details or [])[:3] for answer in beams.completions)


def test_beams_crop_to_the_newest_tokens(tmp_path: Path) -> None:
    """Each step then sees the beam's last tokens alone, from position 0."""
    model = tiny_llama(tmp_path, max_position_embeddings=16)
    prompt = [5, 6, 7, 8, 9, 10]
    params = replace(BEAMS, max_tokens=25, context_overflow="crop", ignore_eos=True)
    (output,) = Engine.load(tmp_path, rows=5).generate([Request("a", prompt, params=params)])
    search = BeamSearch(3, 25, frozenset())
    rows = [prompt]
    with torch.inference_mode():
        while not search.done:
            scores = torch.stack([model(torch.tensor([row[-16:]])).logits[0, -1] for row in rows])
            values, ids = top_logprobs(scores, list(range(len(rows))), search.num_candidates)
            rows = [[*rows[beam.row], beam.token_id] for beam in search.advance(ids.tolist(), values.tolist())]
    assert [answer.token_ids for answer in output.completions] == [one.token_ids for one in search.best(3)]


@pytest.mark.parametrize("token_id", [50, None])
def test_broken_numbers_fail_their_beams_only(
    folder: Path, token_id: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the prompt, or first met by a beam on its way. Torch's attention would spread what a slot is left with."""
    monkeypatch.setenv("PATH", "")  # no compiler
    engine = Engine.load(folder, rows=4)
    assert slots_of(engine).key_block is None
    good = Request("good", [5, 6, 7], params=replace(BEAMS, n=2))
    (alone,) = engine.generate([good])
    (bad_alone,) = engine.generate([Request("bad", [8, 9], params=BEAMS)])
    broken = bad_alone.token_ids[3] if token_id is None else token_id
    assert broken not in [5, 6, 7, 8, 9, *[token for answer in alone.completions for token in answer.token_ids]]
    with torch.no_grad():
        engine.weights.embedding[broken] = torch.nan
    outputs = engine.generate([Request("bad", [8, 9] if token_id is None else [broken], params=BEAMS), good])
    assert outputs[0].error is not None
    assert outputs[0].error.code == "nonfinite_logits"
    assert outputs[1] == alone
    assert not any(tensor.isnan().any() for tensor in (*slots_of(engine).k, *slots_of(engine).v))
