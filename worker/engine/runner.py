"""The network over the cache: tokens of rows in, hidden states of their last tokens out. Knows no requests."""

from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worker.engine.attention import Attention, Pass
from worker.engine.cache import Cache
from worker.engine.fast_paths import choose_fast_paths
from worker.engine.kv_dtype import choose_kv_dtype
from worker.engine.linear import ROW_MULTIPLE
from worker.engine.loader import Model
from worker.engine.scoring import score_prompt
from worker.engine.sending import send
from worker.engine.sequence import PromptScores
from worker.engine.transformer import run_layers

# Prompt tokens of one pass: enough to keep the matrix products busy, little enough for the activations. A GPU takes
# more: its products are at their best from some thousands of rows on, and a pass costs the host as much as a step.
PREFILL_TOKENS = 2048
PREFILL_TOKENS_CUDA = 8192


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of one row that follow what its slot holds already."""

    slot: int
    start: int  # position of the first
    token_ids: Items[int]


class Runner:
    """A model and the cache of its live rows."""

    attention: Attention[Any]
    cache: Cache

    def __init__(
        self,
        model: Model,
        *,
        max_rows: int,
        budget_tokens: int,
        max_tokens: int | None = None,
        kernel_folder: Path | None = None,
        reproducible: bool = False,
        kv_dtype: str = "auto",
    ) -> None:
        """`max_tokens`: of the longest row there may be, the model's context unless told otherwise. `reproducible`: a
        GPU gives a row the same bits in every batch, as a CPU always does. `kv_dtype`: see `choose_kv_dtype`."""
        self._weights, self._spec, self._device = model.weights, model.spec, model.device
        paths = choose_fast_paths(
            *(model.spec, model.device, model.dtype, kernel_folder), reproducible=reproducible, kv_dtype=kv_dtype
        )
        self.attention, self.ops, self.choose, self.fast_paths = paths.attention, paths.ops, paths.choose, paths.names
        self.has_device_step = paths.has_device_step
        self.cache = self.attention.make_cache(
            max_rows=max_rows,
            max_tokens=max_tokens or model.spec.context_length,
            budget_tokens=budget_tokens,
            dtype=choose_kv_dtype(kv_dtype, model.dtype),
            device=model.device,
        )

    def prefill(self, spans: Items[Span]) -> Tensor:
        """Run whole spans -> hidden [B, C] of each one's last token, in as many passes as it takes."""
        hidden = []
        for some in batches(spans, self.prefill_tokens):
            if len(some) == 1 and self.attention.exact_anywhere:
                *_, last = self.scan(some[0], only_last=True)
                hidden.append(last)
            else:
                hidden.append(self._run(some, only_last=True))
        return torch.cat(hidden)

    def scan(self, span: Span, *, only_last: bool = False) -> Iterator[Tensor]:
        """Run a span piece by piece -> hidden [n, C] of each piece's tokens, or of its last one."""
        step = self.prefill_tokens if self.attention.exact_anywhere else len(span.token_ids)
        for done in range(0, len(span.token_ids), step):
            piece = Span(span.slot, span.start + done, span.token_ids[done : done + step])
            yield self._run([piece], only_last=only_last)

    def score(self, hidden: Tensor, next_ids: Items[int], *, num_top: int, into: PromptScores) -> None:
        """Score the tokens that follow those of hidden [N, C], by the ids there are."""
        following = self._integers(list(next_ids))
        hidden = hidden[: len(following)]
        score_prompt(self._weights, self._spec, hidden, following, num_top=num_top, into=into, ops=self.ops)

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens of one pass: whole pages and whole blocks of keys, so that pieces begin where those do."""
        return PREFILL_TOKENS_CUDA if self._device.type == "cuda" else PREFILL_TOKENS

    def _run(self, spans: Items[Span], *, only_last: bool) -> Tensor:
        self.cache.open([(span.slot, span.start, span.start + len(span.token_ids)) for span in spans])
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
            span_slots=[span.slot for span in spans],
            ends=[span.start + count for span, count in zip(spans, counts, strict=True)],
            keep=pad_rows(last) if only_last else None,
        )
        return self._forward(tokens)[: len(spans) if only_last else sum(counts)]

    def decode(self, token: Tensor, position: Tensor, ends: list[int]) -> Tensor:
        """Feed rows [0, B) their newest tokens -> hidden [round_up(B, 16), C].

        token and position are [round_up(B, 16)]; ends[row] is the row's length in the cache once its token is there.
        """
        self.cache.grow(ends)
        slots = torch.arange(len(ends), device=self._device)
        return self._forward(Pass(token, position, slots, counts=[1] * len(ends), ends=ends, is_decode=True))

    def decode_bucket(self, token: Tensor, position: Tensor, *, longest: int) -> Tensor:
        """As `decode` of rows [0, B), whose cache has room already, none longer than `longest` -> hidden [B, C].

        Asks the host nothing, so that the pass may be captured. For a cache in pages.
        """
        slots = torch.arange(len(token), device=self._device)
        ends = [longest] * len(token)
        return self._forward(Pass(token, position, slots, counts=[1] * len(token), ends=ends, is_decode=True))

    def _forward(self, tokens: Pass) -> Tensor:
        mix = self.attention.bind(self.cache, tokens)
        return run_layers(self._weights, self._spec, tokens.tokens, tokens.positions, mix, tokens.keep, self.ops)

    def _integers(self, values: list[int]) -> Tensor:
        return send(values, torch.int64, self._device)


def batches(spans: Items[Span], max_tokens: int) -> list[list[Span]]:
    """Group spans, in their order, into passes of so many tokens at most; a longer span stands alone."""
    groups: list[list[Span]] = []
    num_tokens = max_tokens
    for span in spans:
        if num_tokens + len(span.token_ids) > max_tokens:
            groups.append([])
            num_tokens = 0
        groups[-1].append(span)
        num_tokens += len(span.token_ids)
    return groups


def pad_rows(index: Tensor) -> Tensor:
    """Repeat the first of some row numbers [B] until their count is a multiple of 16."""
    return torch.cat([index, index[:1].expand(-len(index) % ROW_MULTIPLE)])
