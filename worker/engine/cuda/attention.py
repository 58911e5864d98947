"""Attention over pages: queries, keys and values are made and put away in one kernel, and read by a second.

Nothing here asks the device anything. What a decode step reads of its rows, their tables and their positions, lies on
the device, so that a captured step serves rows of any length up to the one that it was captured for.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from worker.engine.attention import Pass
from worker.engine.cuda.cache import PagedCache
from worker.engine.cuda.decode_attention import SPLIT_TOKENS, Workspace, attend_pages
from worker.engine.cuda.placing import place
from worker.engine.cuda.prefill_attention import attend_prompts, queries_of, query_tiles
from worker.engine.rope import rotary_table
from worker.engine.sending import send
from worker.engine.spec import Spec
from worker.engine.transformer import Mix
from worker.engine.weights import Layer


class PagedAttention:
    """See `Attention`. For GPUs, and for Triton's interpreter.

    A prompt's bits do not depend on how it is cut: see prefill_attention.py. Nor does the number of rows in a pass
    change a row's, here: matrix products are another matter.
    """

    exact_anywhere = True

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        # What a captured step reads must stay where it is for as long as this does.
        self._workspaces: dict[int, Workspace] = {}  # by pieces of the longest row
        self._rotations: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def make_cache(
        self, *, max_rows: int, max_tokens: int, budget_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> PagedCache:
        """Make an empty cache; its pages are taken when the first rows come."""
        return PagedCache(
            self._spec,
            max_rows=max_rows,
            max_tokens=max_tokens,
            budget_tokens=budget_tokens,
            dtype=dtype,
            device=device,
        )

    def bind(self, cache: PagedCache, tokens: Pass) -> Mix:
        """Give the attention of one pass over this cache, which has room for it.

        A decode step reads of `tokens` on the host how many there are and the longest of `ends`, rounded up to a power
        of 2 of pieces: whoever captures it names the longest that it is to serve.
        """
        return self._decode(cache, tokens) if tokens.is_decode else self._prefill(cache, tokens)

    def _decode(self, cache: PagedCache, tokens: Pass) -> Mix:
        num = tokens.num_tokens
        lengths = (tokens.positions[:num] + 1).int()
        workspace = self._workspace(cache, max(tokens.ends))
        placed = self._placing(cache, tokens)

        def mix(index: int, layer: Layer, heads: Tensor) -> Tensor:
            q = placed(index, layer, heads)
            out = attend_pages(
                *(q, cache.k[index], cache.v[index], cache.tables, lengths, workspace), window=self._spec.windows[index]
            )
            return F.pad(out.flatten(1), (0, 0, 0, len(heads) - num))

        return mix

    def _prefill(self, cache: PagedCache, tokens: Pass) -> Mix:
        spec, placed = self._spec, self._placing(cache, tokens)
        spans = [
            (slot, end - count, end)
            for slot, count, end in zip(tokens.span_slots, tokens.counts, tokens.ends, strict=True)
        ]

        @lru_cache
        def tiles_for(dtype: torch.dtype) -> Tensor:  # that of queries, which is not always the cache's
            num_queries = queries_of(spec.num_heads // spec.num_kv_heads, spec.head_dim, dtype)
            return send(query_tiles(spans, num_queries=num_queries), torch.int32, cache.tables.device)

        newest = [(slot, end - 1, end) for slot, _, end in spans]
        last = send(query_tiles(newest, num_queries=1), torch.int32, cache.tables.device)

        def mix(index: int, layer: Layer, heads: Tensor) -> Tensor:
            q, tiles, num_rows = placed(index, layer, heads), tiles_for(heads.dtype), len(heads)
            if tokens.keep is not None and index == spec.num_layers - 1:
                q, tiles, num_rows = q[tokens.keep], last, len(tokens.keep)
            out = q.new_zeros(num_rows, *q.shape[1:])
            attend_prompts(q, cache.k[index], cache.v[index], cache.tables, tiles, out, window=spec.windows[index])
            return out.flatten(1)

        return mix

    def _placing(self, cache: PagedCache, tokens: Pass) -> Callable[[int, Layer, Tensor], Tensor]:
        """Give what makes queries [N, H, D] of a layer's heads [P, H + 2 Hkv, D], and puts keys and values away."""
        spec, num = self._spec, tokens.num_tokens
        rows, positions = tokens.slots.int(), tokens.positions[:num]

        def placed(index: int, layer: Layer, heads: Tensor) -> Tensor:
            rotation = self._rotation(heads) if spec.rotated[index] else None
            norms = (layer.q_norm, layer.k_norm) if layer.q_norm is not None and layer.k_norm is not None else None
            return place(
                *(heads[:num], cache.k[index], cache.v[index], cache.tables, rows, positions),
                rotation=rotation,
                norms=norms,
                eps=spec.norm_eps,
            )

        return placed

    def _rotation(self, heads: Tensor) -> tuple[Tensor, Tensor]:
        if heads.dtype not in self._rotations:
            self._rotations[heads.dtype] = rotary_table(self._spec, heads.device, heads.dtype)
        return self._rotations[heads.dtype]

    def _workspace(self, cache: PagedCache, longest: int) -> Workspace:
        """Find room for the pieces of rows up to a length; made once for each power of 2 of pieces."""
        pieces = triton.next_power_of_2(triton.cdiv(longest, SPLIT_TOKENS))
        if pieces not in self._workspaces:
            self._workspaces[pieces] = Workspace.allocate(
                len(cache.tables),
                self._spec.num_heads,
                self._spec.head_dim,
                max_tokens=pieces * SPLIT_TOKENS,
                device=cache.tables.device,
            )
        return self._workspaces[pieces]
