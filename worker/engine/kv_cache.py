"""Keys and values of every live row, in dense slots. Grows with what is asked of it, up to a budget of tokens."""

from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.cache import Need, nothing_kept
from worker.engine.faults import is_allocation_failure
from worker.engine.linear import round_up
from worker.engine.spec import Spec

# Where attention reads one width for all rows, that width is rounded up to this: few different shapes.
WIDTH_MULTIPLE = 64
# Positions and slots added at a time, so that growing is rare and a few short rows do not pay for many long ones.
_GROWTH_TOKENS = 256
_GROWTH_SLOTS = 32
# Of the budget, what beginnings of prompts may take.
_PREFIX_SHARE = 8


class KVCache:
    """Dense cache, a pair of tensors a layer: v is [S, Hkv, T, D]. Row b lives in slot b; S and T may change.

    k is the same, or with `key_block` = n [S, Hkv, T / n, D, n]: n keys side by side, as the compiled attention reads
    them.
    """

    block_tokens = 32
    num_shortages = 0  # rows have room for all that they may become from the start

    def __init__(
        self,
        spec: Spec,
        *,
        max_rows: int,
        budget_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
        key_block: int | None = None,
    ) -> None:
        self.max_rows = max_rows
        self.budget_tokens = budget_tokens  # may be lowered for a time
        self._full_budget_tokens = budget_tokens
        self.reclaim = nothing_kept  # beginnings take nothing from rows here
        self.prefix_budget_tokens = budget_tokens // _PREFIX_SHARE
        self.key_block = key_block
        self.num_slots = self.width = 0  # S and T
        self._num_kv_heads, self._head_dim = spec.num_kv_heads, spec.head_dim
        self._dtype, self._device = dtype, device
        self.k = [self._new_keys(0, 0) for _ in range(spec.num_layers)]
        self.v = [self._new_values(0, 0) for _ in range(spec.num_layers)]

    def _new_values(self, num_slots: int, width: int) -> Tensor:
        return self._new(num_slots, self._num_kv_heads, width, self._head_dim)

    def _new_keys(self, num_slots: int, width: int) -> Tensor:
        if self.key_block is None:
            return self._new_values(num_slots, width)
        return self._new(num_slots, self._num_kv_heads, width // self.key_block, self._head_dim, self.key_block)

    def _new(self, *shape: int) -> Tensor:
        # What no token has been written to is masked by torch's attention, and 0 times a stray NaN would be NaN. The
        # compiled one does not read it, so that there memory is not even taken before it is written to.
        make = torch.zeros if self.key_block is None else torch.empty
        return make(shape, dtype=self._dtype, device=self._device)

    def fits(self, num_rows: int, max_tokens: int) -> bool:
        """Say whether rows of at most max_tokens each stay within the budget. One row always does."""
        return num_rows <= 1 or num_rows * round_up(max_tokens, _GROWTH_TOKENS) <= self.budget_tokens

    def may_fit(self, needs: Items[Need]) -> bool:
        """Say whether rows may ever be live together: within the budget that the cache began with."""
        width = round_up(max(need.max_length for need in needs), _GROWTH_TOKENS)
        return len(needs) <= 1 or len(needs) * width <= self._full_budget_tokens

    def room(self, live: Items[Need], *, optimistic: bool) -> "SlotRoom":
        """Say what is left beside live rows. Every slot is as long as the longest, so there is nothing to hope for."""
        del optimistic
        room = SlotRoom(self)
        room.take(live)
        return room

    @property
    def holds_rows(self) -> bool:
        """Whether slots hold what was written to them."""
        return self.num_slots > 0

    def reserve(self, num_live: int, num_rows: int, max_tokens: int) -> None:
        """Make room for num_rows rows of max_tokens positions, keeping the contents of the live ones.

        Where memory is short it takes less than its budget, and remembers. Raises what torch raises where not even the
        rows asked for fit; nothing has changed then, or all was released: num_slots is 0.
        """
        if num_rows <= self.num_slots and max_tokens <= self.width:
            return
        width = round_up(max_tokens, _GROWTH_TOKENS)
        if self.fits(num_rows, max(width, self.width)):
            width = max(width, self.width)
        num_slots = self._choose_slots(num_rows, width)
        try:
            for layer in range(len(self.k)):  # one layer's old and new tensors side by side, never all layers'
                self._resize(layer, num_slots, width, num_live)
        except BaseException:  # some layers are of one shape, some of another
            self.release()
            raise
        self.num_slots, self.width = num_slots, width

    def _choose_slots(self, num_rows: int, width: int) -> int:
        """Decide how many slots to make, num_rows at least: what the budget allows and memory has."""
        wanted = self.max_rows if self.key_block else max(self.num_slots, round_up(num_rows, _GROWTH_SLOTS))
        while True:
            num_slots = max(num_rows, min(self.max_rows, self.budget_tokens // width, wanted))
            try:
                self._probe(num_slots * width)
            except (RuntimeError, MemoryError) as error:
                if num_slots == num_rows or not is_allocation_failure(error):
                    raise
                self.budget_tokens = num_slots * width // 2
            else:
                return num_slots

    def _probe(self, num_tokens: int) -> None:
        """Ask at once for all that growing to so many tokens takes, a layer's old tensors included, and let go of it.

        So growing fails before it has begun. On a CPU memory nobody writes to costs nothing.
        """
        layer_bytes = 2 * self._num_kv_heads * self._head_dim * self._dtype.itemsize
        more = (num_tokens - self.num_slots * self.width) * len(self.k)
        torch.empty(layer_bytes * max(more + num_tokens, 0), dtype=torch.uint8, device=self._device)

    def _resize(self, layer: int, num_slots: int, width: int, num_live: int) -> None:
        kept = min(width, self.width)
        k, v = self._new_keys(num_slots, width), self._new_values(num_slots, width)
        k[:num_live, :, : self._units(kept)] = self.k[layer][:num_live, :, : self._units(kept)]
        v[:num_live, :, :kept] = self.v[layer][:num_live, :, :kept]
        self.k[layer], self.v[layer] = k, v

    def release(self) -> None:
        """Give all memory back, and the contents with it."""
        self.num_slots = self.width = 0
        self.k = [self._new_keys(0, 0) for _ in self.k]
        self.v = [self._new_values(0, 0) for _ in self.v]

    def _units(self, num_tokens: int) -> int:
        """How many entries of k's third axis hold so many positions."""
        return num_tokens if self.key_block is None else -(-num_tokens // self.key_block)

    def addresses(self, slots: Tensor, positions: Tensor) -> Tensor:
        """Number the cells [N * Hkv] of a layer's cache where the heads at (slot, position), each [N], are kept."""
        heads = torch.arange(self._num_kv_heads, device=slots.device)
        return ((slots[:, None] * self._num_kv_heads + heads) * self.width + positions[:, None]).flatten()

    def write(self, layer: int, addresses: Tensor, k: Tensor, v: Tensor) -> None:
        """Store k, v [N, Hkv, D] at their addresses [N * Hkv]. For a cache without key blocks."""
        head_dim = self._head_dim
        self.k[layer].view(-1, head_dim).index_copy_(0, addresses, k.reshape(-1, head_dim))
        self.v[layer].view(-1, head_dim).index_copy_(0, addresses, v.reshape(-1, head_dim))

    def copy(self, dst: int, src: int, num_tokens: int, *, start: int = 0) -> None:
        """Copy positions [start, num_tokens) of a slot to another; with key blocks, whole blocks."""
        first = start if self.key_block is None else start // self.key_block
        for k, v in zip(self.k, self.v, strict=True):
            k[dst, :, first : self._units(num_tokens)] = k[src, :, first : self._units(num_tokens)]
            v[dst, :, start:num_tokens] = v[src, :, start:num_tokens]

    def open(self, spans: Items[tuple[int, int, int]]) -> None:
        """Do nothing: a slot is one row's alone, and long enough once `reserve` has seen to it."""

    def grow(self, ends: Items[int]) -> None:
        """Do nothing, as above."""

    def keep_first(self, num_rows: int) -> None:
        """Do nothing: what a slot holds is overwritten, and memory is only given back as a whole."""

    def move(self, dst: int, src: int, num_tokens: int) -> None:
        """Copy a slot's first positions over another one."""
        self.copy(dst, src, num_tokens)

    def swap(self, a: int, b: int, num_tokens: int) -> None:
        """Copy b's first positions over a, which is not needed: b is to be computed anew."""
        self.copy(a, b, num_tokens)

    def share(self, dst: int, src: int, num_tokens: int, *, start: int = 0) -> None:
        """Copy positions [start, num_tokens) of a slot to another, which has those before."""
        self.copy(dst, src, num_tokens, start=start)

    def keep(self, slot: int, num_tokens: int) -> "CopiedBeginning":
        """Copy a slot's first positions out of it."""
        return CopiedBeginning(self, *self.read(slot, num_tokens))

    def read(self, slot: int, num_tokens: int) -> tuple[list[Tensor], list[Tensor]]:
        """Copy the first positions out of a slot, keys and values of every layer."""
        units = self._units(num_tokens)
        return [k[slot, :, :units].clone() for k in self.k], [v[slot, :, :num_tokens].clone() for v in self.v]

    def fill(self, slot: int, keys: list[Tensor], values: list[Tensor], num_tokens: int) -> None:
        """Write the first positions of what `read` gave into a slot."""
        units = self._units(num_tokens)
        for layer in range(len(self.k)):
            self.k[layer][slot, :, :units] = keys[layer][:, :units]
            self.v[layer][slot, :, :num_tokens] = values[layer][:, :num_tokens]

    def clear(self, slot: int) -> None:
        """Forget a slot that went bad, so that no NaN waits there for the next row."""
        for k, v in zip(self.k, self.v, strict=True):
            k[slot] = 0
            v[slot] = 0

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        return sum(k.nbytes + v.nbytes for k, v in zip(self.k, self.v, strict=True))


class SlotRoom:
    """How many rows there are, and how long the longest is: so much every one of them takes."""

    def __init__(self, cache: KVCache) -> None:
        self._cache, self._num_rows, self._longest = cache, 0, 0

    def fits(self, needs: Items[Need]) -> bool:
        """Say whether rows of these needs may join."""
        longest = max(self._longest, *(need.max_length for need in needs))
        return self._cache.fits(self._num_rows + len(needs), longest)

    def take(self, needs: Items[Need]) -> None:
        """Count rows in, whether they fit or not."""
        self._num_rows += len(needs)
        self._longest = max([self._longest, *(need.max_length for need in needs)])


@dataclass(frozen=True, slots=True, eq=False)
class CopiedBeginning:
    """See `Beginning`. A copy, which outlives the cache's memory."""

    cache: KVCache
    keys: list[Tensor]
    values: list[Tensor]

    def fill(self, slot: int, num_tokens: int) -> None:
        """Write the first positions into a slot."""
        self.cache.fill(slot, self.keys, self.values, num_tokens)

    def drop(self) -> None:
        """Do nothing: the memory goes with the last reference."""


def token_bytes(spec: Spec, dtype: torch.dtype) -> int:
    """Memory of one cached position: keys and values of all layers."""
    return 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * dtype.itemsize
