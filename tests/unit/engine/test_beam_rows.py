"""Beam search through the engine: transformers' beams, among rows of other requests, bit for bit as alone."""

import random
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.unit.engine.models import EOS, VOCAB_SIZE, ragged_requests
from worker.engine import Engine, Request, SamplingParams

BEAMS = SamplingParams(max_tokens=12, temperature=0.0, use_beam_search=True, best_of=3)


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
            top_logprobs=rng.choice([None, 2]),
        )
        prompt = [rng.randrange(3, VOCAB_SIZE) for _ in range(rng.randint(1, 90))]
        requests.append(Request(f"beams{index}", prompt, params=params))
    return requests


def expected(llama: LlamaForCausalLM, request: Request) -> list[tuple[list[int], float]]:
    """Answer tokens and score of each beam that transformers returns."""
    prompt, params, model = list(request.prompt or ()), request.params, cast(Any, llama)
    stops = [EOS, *params.stop_token_ids]
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        num_beams=params.best_of,
        num_return_sequences=params.n,
        max_new_tokens=params.max_tokens,
        length_penalty=params.length_penalty,
        early_stopping=params.early_stopping,
        eos_token_id=stops,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
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
