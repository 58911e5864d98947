"""How likely a prompt's own tokens are: logprobs, ranks and alternatives from the hidden states of its tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.engine.linear import ROW_MULTIPLE
from worker.engine.ops import TORCH_OPS, Ops
from worker.engine.sequence import PromptScores
from worker.engine.spec import Spec
from worker.engine.transformer import logits
from worker.engine.weights import Weights

_CHUNK_ROWS = 64  # scores of so many tokens are in memory at once: 33 MB at a vocabulary of 128k


def score_prompt(
    weights: Weights,
    spec: Spec,
    hidden: Tensor,
    next_ids: Tensor,
    *,
    num_top: int,
    into: PromptScores,
    ops: Ops = TORCH_OPS,
) -> None:
    """Score the tokens next_ids [N] int64 that follow those of hidden [N, C], which is before the last norm.

    Adds logprob, rank and `num_top` alternatives of each to `into`. Runs in chunks; a token's bits depend neither on
    them nor on N.
    """
    chunks = zip(torch.split(hidden, _CHUNK_ROWS), torch.split(next_ids, _CHUNK_ROWS), strict=True)
    for some_hidden, some_ids in chunks:
        scores = _scores(weights, spec, some_hidden, ops)
        norm = ops.log_norm(scores)[:, None]
        chosen = scores.gather(1, some_ids[:, None])
        into.logprobs += (chosen - norm)[:, 0].tolist()
        into.ranks += ((scores > chosen).sum(-1) + 1).tolist()
        values, ids = scores.topk(min(num_top, scores.shape[1]))
        pairs = zip(ids.tolist(), (values - norm).tolist(), strict=True)
        into.top += [tuple(zip(row_ids, row_values, strict=True)) for row_ids, row_values in pairs]


def _scores(weights: Weights, spec: Spec, hidden: Tensor, ops: Ops) -> Tensor:
    """Raw scores [N, V] of hidden [N, C], computed with the row count rounded up as the law of the batch wants it."""
    num_rows = len(hidden)
    padded = F.pad(hidden, (0, 0, 0, -num_rows % ROW_MULTIPLE))
    return logits(weights, spec, padded, ops)[:num_rows]
