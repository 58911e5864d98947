"""The models and the jobs that every engine gets."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from worker.engine.families import to_config
from worker.engine.spec import Spec
from worker.engine.weights import init_weights, save_weights

PROMPT_TOKENS = (16, 256)
OUTPUT_TOKENS = (16, 256)
# Long enough for the shared prefix; nothing else depends on it, as every engine reserves for what its jobs need.
_CONTEXT_LENGTH = 2048

SHAPES = {
    "15M": Spec(
        vocab_size=16384,
        hidden_size=384,
        intermediate_size=1024,
        num_layers=6,
        num_heads=6,
        num_kv_heads=2,
        head_dim=64,
        context_length=_CONTEXT_LENGTH,
        tie_word_embeddings=True,
    ),
    "114M": Spec(
        vocab_size=32000,
        hidden_size=768,
        intermediate_size=2560,
        num_layers=12,
        num_heads=12,
        num_kv_heads=4,
        head_dim=64,
        context_length=_CONTEXT_LENGTH,
        tie_word_embeddings=True,
    ),
}


@dataclass(frozen=True)
class Work:
    """One prompt and how many tokens to generate after it."""

    prompt: list[int]
    num_new_tokens: int


Decode = Callable[[Sequence[Work]], list[list[int]]]  # the generated tokens of each job, in the order of the jobs


def make_work(
    spec: Spec,
    num_jobs: int,
    *,
    seed: int,
    prompt_tokens: tuple[int, int] = PROMPT_TOKENS,
    output_tokens: tuple[int, int] = OUTPUT_TOKENS,
) -> list[Work]:
    """Draw ragged prompts and output lengths, uniform between their limits (both included)."""
    rng = random.Random(seed)
    return [Work(_draw(rng, spec, rng.randint(*prompt_tokens)), rng.randint(*output_tokens)) for _ in range(num_jobs)]


def make_prefix_work(
    spec: Spec, num_jobs: int, *, seed: int, prefix: int, tail: int, num_new_tokens: int
) -> list[Work]:
    """Draw prompts that begin with the same `prefix` tokens and end with `tail` tokens of their own."""
    rng = random.Random(seed)
    common = _draw(rng, spec, prefix)
    return [Work(common + _draw(rng, spec, tail), num_new_tokens) for _ in range(num_jobs)]


def make_warm_up(spec: Spec) -> list[Work]:
    """A few short jobs of many lengths, so that what is compiled or allocated on first use is there."""
    return make_work(spec, 40, seed=98, prompt_tokens=(4, 96), output_tokens=(2, 24))


def _draw(rng: random.Random, spec: Spec, num_tokens: int) -> list[int]:
    return [rng.randrange(spec.vocab_size) for _ in range(num_tokens)]


def save_model(folder: Path, spec: Spec) -> None:
    """Write a random model as a Hugging Face folder, scaled up so that rounding decides no greedy tie."""
    weights = init_weights(spec, torch.Generator().manual_seed(0))
    for tensor in weights.tensors():
        tensor *= 3.0 if tensor.dim() > 1 else 1.0
    save_weights(folder, spec, weights)
    (folder / "config.json").write_text(json.dumps(to_config(spec)))
