"""The network over the cache: tokens of rows in, hidden states of their last tokens out. Knows no requests."""

from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from worker.engine.attention import Attention, NativeAttention, Pass, TorchAttention
from worker.engine.kv_cache import KVCache
from worker.engine.linear import ROW_MULTIPLE
from worker.engine.loader import Model
from worker.engine.native import NativeError, Shape, load_kernel, load_ops
from worker.engine.ops import TORCH_OPS, Ops
from worker.engine.scoring import score_prompt
from worker.engine.sequence import PromptScores
from worker.engine.spec import Spec
from worker.engine.transformer import run_layers

# Prompt tokens of one pass: enough to keep the matrix products busy, little enough for the activations.
PREFILL_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of one row that follow what its slot holds already."""

    slot: int
    start: int  # position of the first
    token_ids: Items[int]


class Runner:
    """A model and the cache of its live rows."""

    def __init__(self, model: Model, *, max_rows: int, budget_tokens: int, kernel_folder: Path | None = None) -> None:
        self._weights, self._spec, self._device = model.weights, model.spec, model.device
        self.attention, self.ops, self.fast_paths = choose_fast_paths(
            model.spec, model.device, model.dtype, kernel_folder
        )
        self.cache = KVCache(
            model.spec,
            max_rows=max_rows,
            budget_tokens=budget_tokens,
            dtype=model.dtype,
            device=model.device,
            key_block=self.attention.key_block,
        )

    def prefill(self, spans: Items[Span]) -> Tensor:
        """Run whole spans -> hidden [B, C] of each one's last token, in as many passes as it takes."""
        hidden = []
        for some in batches(spans):
            if len(some) == 1 and self.attention.exact_anywhere:
                *_, last = self.scan(some[0], only_last=True)
                hidden.append(last)
            else:
                hidden.append(self._run(some, only_last=True))
        return torch.cat(hidden)

    def scan(self, span: Span, *, only_last: bool = False) -> Iterator[Tensor]:
        """Run a span piece by piece -> hidden [n, C] of each piece's tokens, or of its last one."""
        step = PREFILL_TOKENS if self.attention.exact_anywhere else len(span.token_ids)
        for done in range(0, len(span.token_ids), step):
            piece = Span(span.slot, span.start + done, span.token_ids[done : done + step])
            yield self._run([piece], only_last=only_last)

    def score(self, hidden: Tensor, next_ids: Items[int], *, num_top: int, into: PromptScores) -> None:
        """Score the tokens that follow those of hidden [N, C], by the ids there are."""
        following = self._integers(list(next_ids))
        hidden = hidden[: len(following)]
        score_prompt(self._weights, self._spec, hidden, following, num_top=num_top, into=into, ops=self.ops)

    def _run(self, spans: Items[Span], *, only_last: bool) -> Tensor:
        counts = [len(span.token_ids) for span in spans]
        padding = [0] * (-sum(counts) % ROW_MULTIPLE)
        last = self._integers(counts).cumsum(0) - 1
        tokens = Pass(
            tokens=self._integers([token_id for span in spans for token_id in span.token_ids] + padding),
            positions=self._integers(
                [span.start + index for span, count in zip(spans, counts, strict=True) for index in range(count)]
                + padding
            ),
            slots=self._integers([span.slot for span, count in zip(spans, counts, strict=True) for _ in range(count)]),
            counts=counts,
            ends=[span.start + count for span, count in zip(spans, counts, strict=True)],
            keep=pad_rows(last) if only_last else None,
        )
        return self._forward(tokens)[: len(spans) if only_last else sum(counts)]

    def decode(self, token: Tensor, position: Tensor, ends: list[int]) -> Tensor:
        """Feed rows [0, B) their newest tokens -> hidden [round_up(B, 16), C].

        token and position are [round_up(B, 16)]; ends[row] is the row's length in the cache once its token is there.
        """
        slots = torch.arange(len(ends), device=self._device)
        return self._forward(Pass(token, position, slots, counts=[1] * len(ends), ends=ends))

    def _forward(self, tokens: Pass) -> Tensor:
        mix = self.attention.bind(self.cache, tokens)
        return run_layers(self._weights, self._spec, tokens.tokens, tokens.positions, mix, tokens.keep, self.ops)

    def _integers(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64).to(self._device)


def choose_fast_paths(
    spec: Spec, device: torch.device, dtype: torch.dtype, kernel_folder: Path | None = None
) -> tuple[Attention, Ops, dict[str, str]]:
    """Take the fastest attention and operations there are for a model; name them, or why they are not compiled."""
    if device.type != "cpu":
        return TorchAttention(spec, TORCH_OPS, masked=True), TORCH_OPS, {"attention": "masked", "operations": "torch"}
    try:
        shape = Shape(spec.head_dim, spec.num_heads, spec.num_kv_heads, dtype)
        kernel, ops = load_kernel(shape, kernel_folder), load_ops(dtype, kernel_folder)
    except NativeError as error:
        names = dict.fromkeys(("attention", "operations"), f"torch, since {error}")
        return TorchAttention(spec, TORCH_OPS, masked=False), TORCH_OPS, names
    names = {"attention": "compiled", "operations": "compiled"}
    return NativeAttention(kernel, spec, ops), ops, names


def batches(spans: Items[Span]) -> list[list[Span]]:
    """Group spans, in their order, into passes of PREFILL_TOKENS at most; a longer span stands alone."""
    groups: list[list[Span]] = []
    num_tokens = PREFILL_TOKENS
    for span in spans:
        if num_tokens + len(span.token_ids) > PREFILL_TOKENS:
            groups.append([])
            num_tokens = 0
        groups[-1].append(span)
        num_tokens += len(span.token_ids)
    return groups


def pad_rows(index: Tensor) -> Tensor:
    """Repeat the first of some row numbers [B] until their count is a multiple of 16."""
    return torch.cat([index, index[:1].expand(-len(index) % ROW_MULTIPLE)])
