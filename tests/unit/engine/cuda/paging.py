"""Rows of given lengths whose keys and values lie in pages all over a cache."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.cuda.pages import PAGE_TOKENS, PagePool, pages_of


@dataclass(frozen=True)
class Paged:
    k: Tensor  # [pages, Hkv, P, D]
    v: Tensor
    tables: Tensor  # [B, M] int32
    lengths: Tensor  # [B] int32

    def row(self, cache: Tensor, row: int) -> Tensor:
        """What a row has in a cache, in order: [Hkv, length, D]."""
        length = int(self.lengths[row])
        pages = self.tables[row, : pages_of(length)].long()
        return cache[pages].transpose(0, 1).flatten(1, 2)[:, :length]


def paged(
    lengths: Sequence[int], *, num_kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> Paged:
    """Make random keys and values, unused pages and page 0 full of NaN: nobody may read them."""
    generator = torch.Generator().manual_seed(0)
    num_pages = sum(map(pages_of, lengths)) + 3
    order = [page + 1 for page in torch.randperm(num_pages, generator=generator).tolist()]
    pool = PagePool(num_pages)
    pool.take(num_pages)
    tables = torch.zeros(len(lengths), max(map(pages_of, lengths)), dtype=torch.int32)
    for row, length in enumerate(lengths):
        count = pages_of(length)
        tables[row, :count] = torch.tensor(order[:count])
        order = order[count:]
    shape = (num_pages + 1, num_kv_heads, PAGE_TOKENS, head_dim)
    k, v = torch.full(shape, torch.nan), torch.full(shape, torch.nan)
    for row, length in enumerate(lengths):
        for index in range(length):
            page, place = int(tables[row, index // PAGE_TOKENS]), index % PAGE_TOKENS
            k[page, :, place] = torch.randn(num_kv_heads, head_dim, generator=generator)
            v[page, :, place] = torch.randn(num_kv_heads, head_dim, generator=generator)
    counts = torch.tensor(lengths, dtype=torch.int32)
    return Paged(k.to(device, dtype), v.to(device, dtype), tables.to(device), counts.to(device))
