"""The kernels' plain formulas, for tests of what goes on around them: the interpreter takes a millisecond a program."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worker.engine.cuda import attention
from worker.engine.cuda.decode_attention import Workspace
from worker.engine.rope import rotate


def use_plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the paged attention compute by the formulas below."""
    monkeypatch.setattr(attention, "place", place)
    monkeypatch.setattr(attention, "attend_pages", attend_pages)
    monkeypatch.setattr(attention, "attend_prompts", attend_prompts)


def place(
    qkv: Tensor,
    k: Tensor,
    v: Tensor,
    tables: Tensor,
    rows: Tensor,
    positions: Tensor,
    *,
    rotation: tuple[Tensor, Tensor] | None = None,
    norms: tuple[Tensor, Tensor] | None = None,
    eps: float = 0.0,
) -> Tensor:
    _, num_kv_heads, page_tokens, head_dim = k.shape
    q, keys, values = torch.split(qkv, [qkv.shape[1] - 2 * num_kv_heads, num_kv_heads, num_kv_heads], dim=1)
    if norms is not None:
        q, keys = (F.rms_norm(x, (head_dim,), weight, eps) for x, weight in zip((q, keys), norms, strict=True))
    if rotation is not None:
        cos, sin = (table[positions] for table in rotation)
        turn = torch.cat([cos, cos], -1)[:, None], torch.cat([-sin, sin], -1)[:, None]
        q, keys = rotate(q, turn), rotate(keys, turn)
    pages = tables[rows.long(), positions // page_tokens].long()
    assert pages.all(), "page 0 is nobody's"
    k[pages, :, positions % page_tokens] = keys
    v[pages, :, positions % page_tokens] = values
    found: Tensor = q
    return found


def attend_pages(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tables: Tensor,
    lengths: Tensor,
    workspace: Workspace,
    *,
    window: int | None = None,
) -> Tensor:
    return torch.stack([_one(q[row], k, v, tables[row], int(lengths[row]), window) for row in range(len(q))])


def attend_prompts(
    q: Tensor, k: Tensor, v: Tensor, tables: Tensor, tiles: Tensor, out: Tensor, *, window: int | None = None
) -> None:
    for first, count, slot, position in tiles.tolist():
        for index in range(count):
            out[first + index] = _one(q[first + index], k, v, tables[slot], position + index + 1, window)


def _one(q: Tensor, k: Tensor, v: Tensor, table: Tensor, length: int, window: int | None) -> Tensor:
    """Attend with one token [H, D] over the pages of its row."""
    seen = torch.arange(max(0, length - (window or length)), length)
    pages, places = table[seen // k.shape[2]].long(), seen % k.shape[2]
    assert pages.all(), "page 0 is nobody's"
    keys, values = k[pages, :, places].transpose(0, 1), v[pages, :, places].transpose(0, 1)  # [Hkv, T, D]
    folded = q.view(len(keys), -1, q.shape[-1])
    return F.scaled_dot_product_attention(folded, keys, values).reshape(q.shape)
