"""Keys and values of every live row, in dense slots. Grows with what is asked of it, up to a budget of tokens."""

import torch
from torch import Tensor

from worker.engine.linear import round_up
from worker.engine.spec import Spec

# Where attention reads one width for all rows, that width is rounded up to this: few different shapes.
WIDTH_MULTIPLE = 64
# Positions and slots added at a time, so that growing is rare and a few short rows do not pay for many long ones.
_GROWTH_TOKENS = 256
_GROWTH_SLOTS = 32


class KVCache:
    """Dense cache k, v [L, S, Hkv, T, D]. Row b lives in slot b; both S and T may change between steps."""

    def __init__(
        self, spec: Spec, *, max_rows: int, budget_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.max_rows = max_rows
        self.budget_tokens = budget_tokens
        self._shape = (spec.num_layers, spec.num_kv_heads, spec.head_dim)
        self._dtype, self._device = dtype, device
        self._allocate(0, 0)

    def _allocate(self, num_slots: int, width: int) -> None:
        num_layers, num_kv_heads, head_dim = self._shape
        shape = (num_layers, num_slots, num_kv_heads, width, head_dim)  # [L, S, Hkv, T, D]
        # Zeros, not empty: a masked key has weight 0, and 0 times a stray NaN would be NaN.
        self.k: Tensor = torch.zeros(shape, dtype=self._dtype, device=self._device)
        self.v: Tensor = torch.zeros(shape, dtype=self._dtype, device=self._device)

    @property
    def num_slots(self) -> int:
        """Slots S allocated now."""
        return self.k.shape[1]

    @property
    def width(self) -> int:
        """Positions T each slot holds now."""
        return self.k.shape[3]

    def fits(self, num_rows: int, max_tokens: int) -> bool:
        """Say whether rows of at most max_tokens each stay within the budget. One row always does."""
        return num_rows <= 1 or num_rows * round_up(max_tokens, _GROWTH_TOKENS) <= self.budget_tokens

    def reserve(self, num_live: int, num_rows: int, max_tokens: int) -> None:
        """Make room for num_rows rows of max_tokens positions, keeping the contents of the live ones."""
        if num_rows <= self.num_slots and max_tokens <= self.width:
            return
        width = round_up(max_tokens, _GROWTH_TOKENS)
        if self.fits(num_rows, max(width, self.width)):
            width = max(width, self.width)
        wanted = max(self.num_slots, round_up(num_rows, _GROWTH_SLOTS))
        num_slots = max(num_rows, min(self.max_rows, self.budget_tokens // width, wanted))
        old_k, old_v, kept = self.k, self.v, min(width, self.width)
        self._allocate(num_slots, width)
        self.k[:, :num_live, :, :kept] = old_k[:, :num_live, :, :kept]
        self.v[:, :num_live, :, :kept] = old_v[:, :num_live, :, :kept]

    def addresses(self, slots: Tensor, positions: Tensor) -> Tensor:
        """Number the cells [N * Hkv] of a layer's cache where the heads at (slot, position), each [N], are kept."""
        num_kv_heads, width = self.k.shape[2:4]
        heads = torch.arange(num_kv_heads, device=slots.device)
        return ((slots[:, None] * num_kv_heads + heads) * width + positions[:, None]).flatten()

    def write(self, layer: int, addresses: Tensor, k: Tensor, v: Tensor) -> None:
        """Store k, v [N, Hkv, D] at their addresses [N * Hkv]."""
        head_dim = self.k.shape[-1]
        self.k[layer].view(-1, head_dim).index_copy_(0, addresses, k.reshape(-1, head_dim))
        self.v[layer].view(-1, head_dim).index_copy_(0, addresses, v.reshape(-1, head_dim))

    def move(self, dst: int, src: int, num_tokens: int) -> None:
        """Copy the first positions of a slot to another."""
        self.k[:, dst, :, :num_tokens] = self.k[:, src, :, :num_tokens]
        self.v[:, dst, :, :num_tokens] = self.v[:, src, :, :num_tokens]

    def clear(self, slot: int) -> None:
        """Forget a slot that went bad, so that no NaN waits there for the next row."""
        self.k[:, slot] = 0
        self.v[:, slot] = 0

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        return self.k.nbytes + self.v.nbytes


def token_bytes(spec: Spec, dtype: torch.dtype) -> int:
    """Memory of one cached position: keys and values of all layers."""
    return 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * dtype.itemsize
