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


def attend_rows(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attend with one query a row: q [B, H, D] over k and v [B, Hkv, T, D], mask [B, 1, 1, T] added -> [B, H * D]."""
    num_rows, num_kv_heads = k.shape[:2]
    # The query heads that share a key head lie along the query axis, so that each key is read once.
    folded = q.reshape(num_rows, num_kv_heads, -1, q.shape[-1])
    return F.scaled_dot_product_attention(folded, k, v, attn_mask=mask).reshape(num_rows, -1)


def length_mask(positions: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Additive mask [B, 1, 1, T]: 0 up to and including each row's own position [B], -inf beyond."""
    beyond = torch.arange(width, device=positions.device) > positions[:, None]
    return torch.zeros(beyond.shape, dtype=dtype, device=positions.device).masked_fill_(beyond, -torch.inf)[
        :, None, None
    ]
