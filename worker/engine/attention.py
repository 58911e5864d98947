"""Who sees whom: the tokens of one pass write their keys and values to the cache, then attend over it.

Two ways to the same numbers. The compiled kernel takes any tokens of any rows, each over exactly its own keys. Torch's
own attention takes whole prompts, or one token a row; it serves where the kernel cannot be had.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.engine.cache import Cache
from worker.engine.kv_cache import WIDTH_MULTIPLE, KVCache
from worker.engine.linear import round_up
from worker.engine.native import KEY_BLOCK, Kernel
from worker.engine.ops import Ops
from worker.engine.spec import Spec
from worker.engine.transformer import Mix, by_heads


@dataclass(frozen=True, slots=True)
class Pass:
    """Tokens of some rows that go through the network together, row after row; padding follows the last row's."""

    tokens: Tensor  # [P] int64, P a multiple of 16
    positions: Tensor  # [P] int64
    slots: Tensor  # [N] int64, N <= P the tokens that are not padding
    counts: list[int]  # tokens of each row, of sum N
    ends: list[int]  # each row's length in the cache after this pass
    span_slots: Items[int] = ()  # of each row, where more than one token of it may be new
    keep: Tensor | None = None  # [M] int64: where each row's last token lies, padded to a multiple of 16
    is_decode: bool = False  # whether these are the newest tokens of rows 0 to N - 1, one each

    @property
    def num_tokens(self) -> int:
        """Tokens that are not padding."""
        return len(self.slots)


C = TypeVar("C", bound=Cache)


class Attention(Protocol[C]):
    """One way to attend, over a cache of its kind."""

    exact_anywhere: bool  # whether a token's bits do not depend on how its prompt is cut into passes

    def make_cache(
        self, *, max_rows: int, max_tokens: int, budget_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> C:
        """Make an empty cache of so many rows, the longest of max_tokens positions, all of budget_tokens.

        `dtype` is what keys and values are kept in.
        """

    def bind(self, cache: C, tokens: Pass) -> Mix:
        """Give the attention of one pass over this cache, which has room for it."""


class _DenseAttention:
    """What attends over dense slots."""

    key_block: int | None = None  # how the cache is to hold keys

    def __init__(self, spec: Spec, ops: Ops) -> None:
        self._spec, self._ops, self._windows = spec, ops, spec.windows

    def make_cache(
        self, *, max_rows: int, max_tokens: int, budget_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> KVCache:
        """Make an empty cache, which grows with its rows."""
        del max_tokens
        return KVCache(
            self._spec,
            max_rows=max_rows,
            budget_tokens=budget_tokens,
            dtype=dtype,
            device=device,
            key_block=self.key_block,
        )


class NativeAttention(_DenseAttention):
    """The compiled kernel. For CPUs."""

    key_block: int | None = KEY_BLOCK
    exact_anywhere = True

    def __init__(self, kernel: Kernel, spec: Spec, ops: Ops) -> None:
        super().__init__(spec, ops)
        self._kernel = kernel

    def bind(self, cache: KVCache, tokens: Pass) -> Mix:
        """Give the attention of one pass over this cache."""
        num = tokens.num_tokens
        every = (tokens.slots, tokens.positions[:num])
        kept = every
        if tokens.keep is not None:
            last = tokens.keep[: len(tokens.counts)]
            kept = (tokens.slots[last], tokens.positions[last])
        last_layer = len(self._windows) - 1

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache_k, cache_v = cache.k[layer], cache.v[layer]
            self._kernel.store(k[:num], v[:num], cache_k, cache_v, slots=every[0], positions=every[1])
            slots, positions = kept if layer == last_layer else every
            out = q.new_zeros(len(q), q.shape[1] * q.shape[2])
            self._kernel.attend(
                q, cache_k, cache_v, out, slots=slots, positions=positions, window=self._windows[layer] or 0
            )
            return out

        return by_heads(self._spec, tokens.positions, attend, tokens.keep, self._ops)


class TorchAttention(_DenseAttention):
    """scaled_dot_product_attention: prompts from their beginning, or one token a row.

    `masked` takes all rows of a decode step in one product over the widest of them, for GPUs. A CPU takes them one by
    one, which is the faster way there, and the only exact one: beyond 384 keys the sums of one wide product are split
    by its width.
    """

    exact_anywhere = False

    def __init__(self, spec: Spec, ops: Ops, *, masked: bool) -> None:
        super().__init__(spec, ops)
        self._masked = masked

    def bind(self, cache: KVCache, tokens: Pass) -> Mix:
        """Give the attention of one pass over this cache. Raises ValueError where a prompt is cut in several passes."""
        num = tokens.num_tokens
        addresses = cache.addresses(tokens.slots, tokens.positions[:num])
        is_decode = tokens.counts != tokens.ends  # a prompt of one token is a whole prompt, and in any slot
        if is_decode and max(tokens.counts) > 1:
            raise ValueError("this attention takes prompts whole")

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache.write(layer, addresses, k[:num], v[:num])
            window = self._windows[layer]
            if is_decode:
                out = self._attend_cache(cache, layer, q[:num], tokens, window)
            elif tokens.keep is not None and layer == len(self._windows) - 1:
                out = attend_last(q, k, v, tokens.counts, window)
            else:
                out = attend_prompts(q, k, v, tokens.counts, window)
            return F.pad(out, (0, 0, 0, len(q) - len(out)))

        return by_heads(self._spec, tokens.positions, attend, tokens.keep, self._ops)

    def _attend_cache(self, cache: KVCache, layer: int, q: Tensor, tokens: Pass, window: int | None) -> Tensor:
        num_rows = len(tokens.ends)
        k, v = cache.k[layer][:num_rows], cache.v[layer][:num_rows]
        if not self._masked:
            return attend_each_row(q, k, v, tokens.ends, window)
        width = round_up(max(tokens.ends), WIDTH_MULTIPLE)
        mask = length_mask(tokens.positions[:num_rows], width, q.dtype, window)
        return attend_masked_rows(q, k[:, :, :width], v[:, :, :width], mask)


def attend_prompts(q: Tensor, k: Tensor, v: Tensor, lengths: Items[int], window: int | None = None) -> Tensor:
    """Attend causally within each of the prompts packed end to end: q [P, H, D], k and v [P, Hkv, D] -> [N, H * D]."""
    out = q.new_empty(sum(lengths), *q.shape[1:])
    start, grouped = 0, q.shape[1] != k.shape[1]
    for length in lengths:
        end = start + length
        one_q, one_k, one_v = (x[start:end].transpose(0, 1)[None] for x in (q, k, v))  # [1, heads, S, D]
        mask = None
        if window is not None and window < length:
            distance = torch.arange(length, device=q.device)[:, None] - torch.arange(length, device=q.device)
            mask = (distance >= 0) & (distance < window)
        one = F.scaled_dot_product_attention(
            one_q, one_k, one_v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
        )
        out[start:end] = one[0].transpose(0, 1)
        start = end
    return out.flatten(1)


def attend_last(q: Tensor, k: Tensor, v: Tensor, lengths: Items[int], window: int | None = None) -> Tensor:
    """As `attend_prompts` for each prompt's last token alone: q [M, H, D], M >= B -> [B, H * D]."""
    rows, start = [], 0
    for row, length in enumerate(lengths):
        end = start + length
        keys, values = (x[max(start, end - (window or length)) : end].transpose(0, 1)[None] for x in (k, v))
        rows.append(F.scaled_dot_product_attention(_fold(q[row : row + 1], k.shape[1]), keys, values))
        start = end
    return torch.cat(rows).view(len(lengths), -1)


def attend_each_row(q: Tensor, k: Tensor, v: Tensor, lengths: Items[int], window: int | None = None) -> Tensor:
    """Attend with one query a row, each over exactly its own keys: q [B, H, D], k, v [B, Hkv, T, D] -> [B, H * D]."""
    folded = _fold(q, k.shape[1])
    rows = []
    for row, length in enumerate(lengths):
        keys = slice(max(0, length - (window or length)), length)
        rows.append(
            F.scaled_dot_product_attention(folded[row : row + 1], k[row : row + 1, :, keys], v[row : row + 1, :, keys])
        )
    return torch.cat(rows).view(q.shape[0], -1)


def attend_masked_rows(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """As `attend_each_row`, in one masked product over the widest row: mask [B, 1, 1, T] is added."""
    folded = _fold(q, k.shape[1])
    return F.scaled_dot_product_attention(folded, k, v, attn_mask=mask).reshape(q.shape[0], -1)


def _fold(q: Tensor, num_kv_heads: int) -> Tensor:
    """Lay the query heads that share a key head along the query axis, [B, Hkv, G, D], so that each key is read once."""
    return q.reshape(q.shape[0], num_kv_heads, -1, q.shape[-1])


def length_mask(positions: Tensor, width: int, dtype: torch.dtype, window: int | None = None) -> Tensor:
    """Additive mask [B, 1, 1, T]: 0 for the keys up to each row's own position [B], -inf beyond and before a window."""
    distance = positions[:, None] - torch.arange(width, device=positions.device)
    hidden = (distance < 0) | (distance >= (window or width))
    mask = torch.zeros(hidden.shape, dtype=dtype, device=positions.device).masked_fill_(hidden, -torch.inf)
    return mask[:, None, None]
