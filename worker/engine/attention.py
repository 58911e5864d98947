"""Who sees whom: causal attention over packed prompts, and one query a row over the cache."""

from collections.abc import Sequence as Items

import torch
import torch.nn.functional as F
from torch import Tensor


def attend_prompts(q: Tensor, k: Tensor, v: Tensor, lengths: Items[int]) -> Tensor:
    """Attend causally within each of the prompts packed end to end: q [N, H, D], k and v [N, Hkv, D] -> [N, H * D].

    Tokens beyond sum(lengths) are padding and give zeros.
    """
    out = q.new_zeros(q.shape)
    start, grouped = 0, q.shape[1] != k.shape[1]
    for length in lengths:
        end = start + length
        one_q, one_k, one_v = (x[start:end].transpose(0, 1)[None] for x in (q, k, v))  # [1, heads, S, D]
        one = F.scaled_dot_product_attention(one_q, one_k, one_v, is_causal=True, enable_gqa=grouped)
        out[start:end] = one[0].transpose(0, 1)
        start = end
    return out.flatten(1)


def attend_each_row(q: Tensor, k: Tensor, v: Tensor, lengths: Items[int]) -> Tensor:
    """Attend with one query a row, each over exactly its own keys: q [B, H, D], k and v [B, Hkv, T, D] -> [B, H * D].

    For CPUs, where it is also the faster way: short rows read no more than they hold. A row's bits depend on nothing
    but the row; one masked product over the widest row would not do, since beyond 384 keys its sums are split by width.
    """
    folded = _fold(q, k.shape[1])
    rows = [
        F.scaled_dot_product_attention(
            folded[row : row + 1], k[row : row + 1, :, :length], v[row : row + 1, :, :length]
        )
        for row, length in enumerate(lengths)
    ]
    return torch.cat(rows).view(q.shape[0], -1)


def attend_masked_rows(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """As `attend_each_row`, in one masked product over the widest row: mask [B, 1, 1, T] is added. For GPUs."""
    folded = _fold(q, k.shape[1])
    return F.scaled_dot_product_attention(folded, k, v, attn_mask=mask).reshape(q.shape[0], -1)


def _fold(q: Tensor, num_kv_heads: int) -> Tensor:
    """Lay the query heads that share a key head along the query axis, [B, Hkv, G, D], so that each key is read once."""
    return q.reshape(q.shape[0], num_kv_heads, -1, q.shape[-1])


def length_mask(positions: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Additive mask [B, 1, 1, T]: 0 up to and including each row's own position [B], -inf beyond."""
    beyond = torch.arange(width, device=positions.device) > positions[:, None]
    mask = torch.zeros(beyond.shape, dtype=dtype, device=positions.device).masked_fill_(beyond, -torch.inf)
    return mask[:, None, None]
