"""Any family's random tiny checkpoint, and how an engine's answers are held against Hugging Face's own model of it."""

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig

from tests.unit.engine.models import EOS, VOCAB_SIZE
from worker.engine import Output, Request, SamplingParams
from worker.engine.spec import Spec
from worker.engine.transformer import Attend, forward, logits
from worker.engine.weights import Weights

TINY: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "pad_token_id": 0,
}
TOLERANCE = 1e-4  # of logprobs


def save_tiny(folder: Path, config: PreTrainedConfig, *, scale: float = 4.0) -> Any:  # noqa: ANN401 (any family's class)
    """Save a random model of a config and return Hugging Face's own, float32.

    Matrices are scaled up, so that no near-equal logits let rounding decide a greedy tie. Gains and biases are drawn,
    since ones and zeros would hide a norm or a bias that is not applied.
    """
    torch.manual_seed(7)
    untyped: Any = AutoModelForCausalLM
    model = untyped.from_config(config)
    model.train(False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
            else:
                parameter.uniform_(-0.5, 0.5).add_(0.0 if name.endswith("bias") else 1.0)
    model.save_pretrained(folder)
    return model


def ragged_prompts(num: int, *, longest: int = 100) -> list[list[int]]:
    """Random prompts, the shortest of one token and the longest of `longest`."""
    rng = random.Random(num)
    lengths = [1, longest, *(rng.randint(1, longest) for _ in range(num - 2))]
    return [[rng.randrange(3, VOCAB_SIZE) for _ in range(length)] for length in lengths]


def greedy_requests(prompts: list[list[int]], *, max_tokens: int = 12) -> list[Request]:
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    return [Request(f"r{index}", prompt, params=params) for index, prompt in enumerate(prompts)]


@torch.inference_mode()
def assert_greedy(model: Any, outputs: list[Output]) -> None:  # noqa: ANN401
    """Check each answer to be what greedy decoding of `model` gives, by one forward over prompt and answer.

    Each token, and the stop token that was cut, must be the argmax after those before it.
    """
    assert any(output.token_ids for output in outputs)
    for output in outputs:
        assert output.error is None
        num_prompt, answer = len(output.prompt_token_ids), output.token_ids
        scores = model(torch.tensor([output.prompt_token_ids + answer])).logits[0, num_prompt - 1 :]
        best = scores.argmax(-1).tolist()
        assert best[: len(answer)] == answer
        assert output.finish_reason == "length" or best[len(answer)] == EOS
        expected = scores.log_softmax(-1)[range(len(answer)), answer]
        torch.testing.assert_close(torch.tensor(output.logprobs), expected, atol=TOLERANCE, rtol=0)


@torch.inference_mode()
def assert_scores(model: Any, weights: Weights, spec: Spec, prompts: list[list[int]]) -> None:  # noqa: ANN401
    """Check logprobs after every token of prompts run end to end, with nothing but a plain masked attention."""
    lengths = [len(prompt) for prompt in prompts]
    tokens = torch.tensor([token for prompt in prompts for token in prompt])
    positions = torch.cat([torch.arange(length) for length in lengths])
    scores = logits(weights, spec, forward(weights, spec, tokens, positions, masked_attention(spec, lengths)))
    for prompt, found in zip(prompts, torch.split(scores, lengths), strict=True):
        expected = model(torch.tensor([prompt])).logits[0]
        torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1), atol=TOLERANCE, rtol=0)


def masked_attention(spec: Spec, lengths: list[int], keep: Tensor | None = None) -> Attend:
    """Attend within each of the prompts, each layer through its window; in the last one for rows `keep` alone."""
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    rows = torch.arange(len(owner))
    distance = rows[:, None] - rows

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        window = spec.windows[layer] or len(owner)
        seen = (owner[:, None] == owner) & (distance >= 0) & (distance < window)
        seen = seen[keep] if keep is not None and layer == spec.num_layers - 1 else seen
        group = spec.num_heads // spec.num_kv_heads
        k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
        weights = torch.einsum("nhd,mhd->hnm", q, k) / spec.head_dim**0.5
        weights = weights.masked_fill(~seen, -torch.inf).softmax(-1)
        return torch.einsum("hnm,mhd->nhd", weights, v).flatten(1)

    return attend
