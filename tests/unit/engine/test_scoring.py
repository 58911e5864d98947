"""Prompt scores against Hugging Face's logits, whatever else is scored with them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.unit.engine.models import VOCAB_SIZE, tiny_llama
from worker.engine import scoring
from worker.engine.loader import Model, load_model
from worker.engine.scoring import score_prompt
from worker.engine.sequence import PromptScores


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough that matrix kernels change their blocking with the number of rows."""
    folder = tmp_path_factory.mktemp("wide")
    tiny_llama(folder, hidden_size=2048, num_attention_heads=8, vocab_size=4000)
    return folder


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def model(request: pytest.FixtureRequest, wide_folder: Path) -> Model:
    return load_model(wide_folder, device="cpu", dtype=request.param)


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def hidden_of(model: Model, num_tokens: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_tokens)
    return torch.randn(num_tokens, model.spec.hidden_size, generator=generator).to(model.dtype)


def score(model: Model, hidden: torch.Tensor, ids: list[int] | None = None, *, num_top: int = 3) -> PromptScores:
    scores = PromptScores()
    next_ids = torch.arange(len(hidden)) % VOCAB_SIZE if ids is None else torch.tensor(ids, dtype=torch.int64)
    score_prompt(model.weights, model.spec, hidden, next_ids, num_top=num_top, into=scores)
    return scores


def test_scores_are_those_of_hugging_face(folder: Path, llama: tuple[Path, LlamaForCausalLM]) -> None:
    model = load_model(folder, device="cpu", dtype="float32")
    prompt = torch.arange(3, 103)
    last: list[torch.Tensor] = []
    hook = llama[1].model.norm.register_forward_hook(lambda _module, inputs, _output: last.append(inputs[0]))
    logprobs = llama[1](prompt[None]).logits[0, :-1].log_softmax(-1)
    hook.remove()
    scores = score(model, last[0][0, :-1], prompt[1:].tolist(), num_top=5)
    chosen = logprobs.gather(1, prompt[1:, None])
    torch.testing.assert_close(torch.tensor(scores.logprobs), chosen[:, 0], atol=1e-4, rtol=0)
    assert scores.ranks == ((logprobs > chosen).sum(-1) + 1).tolist()
    expected = logprobs.topk(5)
    assert [[token for token, _ in top] for top in scores.top] == expected.indices.tolist()
    values = torch.tensor([[value for _, value in top] for top in scores.top])
    torch.testing.assert_close(values, expected.values, atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_tokens", [1, 16, 63, 64, 65, 200])
def test_no_bit_depends_on_the_chunks(model: Model, monkeypatch: pytest.MonkeyPatch, num_tokens: int) -> None:
    hidden = hidden_of(model, num_tokens)
    expected = score(model, hidden)
    for size in (16, 48):
        monkeypatch.setattr(scoring, "_CHUNK_ROWS", size)
        assert score(model, hidden) == expected
    monkeypatch.undo()
    alone = score(model, hidden[-1:], [(num_tokens - 1) % VOCAB_SIZE])
    assert (alone.logprobs[0], alone.ranks[0], alone.top[0]) == (
        expected.logprobs[-1],
        expected.ranks[-1],
        expected.top[-1],
    )


def test_ties_share_the_better_rank(model: Model) -> None:
    scores = score(model, hidden_of(model, 2) * 0, [5, 9], num_top=0)
    assert scores.ranks == [1, 1]
    assert scores.top == [(), ()]
    assert scores.logprobs == pytest.approx([-torch.log(torch.tensor(4000.0)).item()] * 2)


def test_twenty_alternatives_can_be_had(model: Model) -> None:
    scores = score(model, hidden_of(model, 3), num_top=20)
    assert [len(top) for top in scores.top] == [20, 20, 20]
    assert all(value <= 0 for top in scores.top for _, value in top)


def test_an_empty_prompt_has_no_scores(model: Model) -> None:
    """A prompt of one token has nothing that follows."""
    assert score(model, hidden_of(model, 1)[:0]) == PromptScores()
