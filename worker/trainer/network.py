"""The engine's own decoder, seen from training: its shape, its losses over a padded batch, its parameters."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.engine.spec import Spec
from worker.engine.transformer import Attend, forward, logits
from worker.engine.weights import Weights, init_weights
from worker.trainer.data import IGNORED, Batch, Sample, ordered_batches
from worker.trainer.settings import TrainSettings

_EVALUATION_TOKENS = 2048  # a batch, padding included


def make_spec(settings: TrainSettings, *, vocab_size: int, end_id: int) -> Spec:
    """The decoder's shape; the vocabulary may have ended smaller than asked for."""
    return Spec(
        vocab_size=vocab_size,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_layers=settings.num_layers,
        num_heads=settings.num_heads,
        num_kv_heads=settings.num_kv_heads,
        head_dim=settings.head_dim,
        context_length=settings.context_tokens,
        rope_theta=settings.rope_theta,
        tie_word_embeddings=True,
        dtype=settings.saved_dtype,
        eos_token_ids=(end_id,),
    )


def trainable_weights(spec: Spec, seed: int) -> Weights:
    """Freshly drawn float32 weights that collect gradients."""
    weights = init_weights(spec, torch.Generator().manual_seed(seed))
    for tensor in weights.tensors():
        tensor.requires_grad_()
    return weights


def count_parameters(weights: Weights) -> int:
    """Numbers learned; a tied head counts once."""
    return sum(tensor.numel() for tensor in weights.tensors())


def batch_loss(weights: Weights, spec: Spec, batch: Batch) -> tuple[Tensor, int]:
    """Sum of cross entropies in nats over a batch, and the number of tokens it was taken over."""
    real = batch.targets.flatten() != IGNORED  # padding costs no row of the large last product
    scores = logits(weights, spec, _hidden(weights, spec, batch)[real])
    return F.cross_entropy(scores, batch.targets.flatten()[real], reduction="sum"), int(real.sum())


@torch.no_grad()
def mean_loss(weights: Weights, spec: Spec, samples: Sequence[Sample]) -> float | None:
    """Mean cross entropy in nats per token over whole samples; None where there are none."""
    total, num_tokens = 0.0, 0
    for batch in ordered_batches(samples, batch_tokens=_EVALUATION_TOKENS):
        loss, count = batch_loss(weights, spec, batch)
        total, num_tokens = total + loss.item(), num_tokens + count
    return total / num_tokens if num_tokens else None


@torch.no_grad()
def recall(weights: Weights, spec: Spec, samples: Sequence[Sample]) -> float:
    """Share of samples whose answer greedy decoding gives to the last token.

    It does exactly where each token of the answer, the end token too, is the argmax after those before it.
    """
    num_right = 0
    for batch in ordered_batches(samples, batch_tokens=_EVALUATION_TOKENS):
        best = logits(weights, spec, _hidden(weights, spec, batch)).argmax(-1).view_as(batch.targets)
        in_prompt = torch.arange(best.shape[1]) < batch.prompt_lengths[:, None] - 1
        right = (best == batch.targets) | (batch.targets == IGNORED) | in_prompt
        num_right += int(right.all(1).sum())
    return num_right / max(1, len(samples))


@torch.no_grad()
def complete(weights: Weights, spec: Spec, prompt_ids: list[int], *, max_tokens: int) -> list[int]:
    """Decode greedily without a cache: a handful of answers for the model card."""
    tokens = list(prompt_ids)
    while len(tokens) < min(spec.context_length, len(prompt_ids) + max_tokens):
        hidden = forward(weights, spec, torch.tensor(tokens), torch.arange(len(tokens)), causal_attention(1))
        best = int(logits(weights, spec, hidden[-1:]).argmax())
        if best in spec.eos_token_ids:
            break
        tokens.append(best)
    return tokens[len(prompt_ids) :]


def causal_attention(rows: int) -> Attend:
    """Attend within each of `rows` padded sequences laid end to end; padding comes last, so causal hides it."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [B * S, H, D], k and v [B * S, Hkv, D] -> [B * S, H * D]."""
        q, k, v = (tensor.view(rows, -1, *tensor.shape[1:]).transpose(1, 2) for tensor in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)  # [B, H, S, D]
        return out.transpose(1, 2).flatten(2).flatten(0, 1)

    return attend


def _hidden(weights: Weights, spec: Spec, batch: Batch) -> Tensor:
    """Run a padded batch [B, S] as B * S tokens end to end -> [B * S, C]."""
    rows, width = batch.tokens.shape
    positions = torch.arange(width).repeat(rows)
    return forward(weights, spec, batch.tokens.flatten(), positions, causal_attention(rows))
