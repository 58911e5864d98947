"""One decode step that asks the host nothing, and so can be captured: rows in, their next tokens out.

What changes from step to step, the rows' tokens, positions, block tables and how many of them live, lies on the device.
A step for B rows serves every number of rows up to B, so that few shapes do. Rows beyond the live ones write to the
page that is nobody's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.cuda.decode_attention import SPLIT_TOKENS
from worker.engine.cuda.graphs import CudaCapture, Graphs
from worker.engine.linear import round_up
from worker.engine.loader import Model
from worker.engine.rows import Rows
from worker.engine.runner import Runner
from worker.engine.sampling import Features, sample
from worker.engine.transformer import logits

_SMALL_BUCKETS = (1, 2, 4, 8, 16)
_BUCKET_STEP = 32

Results = tuple[Tensor, Tensor, Tensor]  # tokens [B] int64, logprobs [B] float32, done [B] bool


@dataclass(frozen=True, slots=True)
class StepShape:
    """What a captured step is made for."""

    num_rows: int
    num_tokens: int  # of the longest row
    features: Features

    def __str__(self) -> str:
        """For the log."""
        asked = "filtered" if self.features.filtered else "sampled" if self.features.sampled else "greedy"
        return f"a step of {self.num_rows} {asked} rows of up to {self.num_tokens} tokens"


class GraphedStep:
    """Decodes rows [0, n), which ask for nothing beyond the plain features: no penalties, bans or alternatives."""

    def __init__(self, model: Model, runner: Runner, rows: Rows, *, max_model_len: int) -> None:
        self._weights, self._spec, self._max_model_len = model.weights, model.spec, max_model_len
        self._runner, self._rows = runner, rows
        self._num_live = torch.zeros((), dtype=torch.int64, device=model.device)
        self._last_live, self._epoch = 0, 0
        capture = CudaCapture(self._warm_up) if model.device.type == "cuda" else lambda call: call
        self.graphs: Graphs[StepShape, Results] = Graphs(self._step, capture)

    def run(self, ends: list[int], features: Features) -> Results:
        """Feed rows [0, n) their newest tokens and move them on; ends[row] is the row's length in the cache then.

        The results are overwritten by the next step. Raises MemoryError where the cache has no room.
        """
        num_rows = len(ends)
        self._runner.cache.grow(ends)
        self._keep_graphs_true()
        if num_rows != self._last_live:
            self._rows.position[num_rows:].zero_()
            self._num_live.fill_(num_rows)
            self._last_live = num_rows
        tokens, logprobs, done = self.graphs.run(StepShape(bucket_of(num_rows), longest_of(max(ends)), features))
        return tokens[:num_rows], logprobs[:num_rows], done[:num_rows]

    def _keep_graphs_true(self) -> None:
        """Forget graphs that would write where the cache no longer is."""
        epoch = getattr(self._runner.cache, "epoch", 0)
        if epoch != self._epoch:
            self.graphs.release()
            self._epoch = epoch

    def _step(self, shape: StepShape) -> Results:
        rows = slice(0, shape.num_rows)
        positions = self._rows.position[rows].clamp(max=self._max_model_len - 1)  # a row may be past its end
        hidden = self._runner.decode_bucket(self._rows.token[rows], positions, longest=shape.num_tokens)
        scores = logits(self._weights, self._spec, hidden, self._runner.ops)
        state = self._rows.plain_sampling(rows)
        tokens, logprobs = sample(scores, state, shape.features, self._runner.ops, self._runner.choose)
        live = torch.arange(shape.num_rows, device=tokens.device) < self._num_live
        self._rows.advance(tokens, logprobs, live)
        return tokens, logprobs, self._rows.done[rows]

    def _warm_up(self, call: Callable[[], object]) -> None:
        """Run a step that moves no row on. What it writes to the cache, the step that follows writes again."""
        self._num_live.zero_()
        call()
        self._num_live.fill_(self._last_live)


def bucket_of(num_rows: int) -> int:
    """The least bucket that holds so many rows: 1, 2, 4, 8, 16, then multiples of 32."""
    small = (bucket for bucket in _SMALL_BUCKETS if bucket >= num_rows)
    return next(small, round_up(num_rows, _BUCKET_STEP))


def longest_of(num_tokens: int) -> int:
    """A power of 2 of pieces of attention, in tokens, that holds so many."""
    return SPLIT_TOKENS << max(-(-num_tokens // SPLIT_TOKENS) - 1, 0).bit_length()
