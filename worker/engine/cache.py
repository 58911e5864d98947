"""What the engine asks of its cache of keys and values, however that keeps them. Knows no tensors."""

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Need:
    """Positions that one row asks for."""

    length: int  # now: its prompt, and what it has generated
    max_length: int  # as far as it may come
    shared: int = 0  # of those now, from the first on: what it takes from the row before it, as answers do their prompt


class Room(Protocol):
    """What an admission has left to give, beside the live rows and those it has taken."""

    def fits(self, needs: Items[Need]) -> bool:
        """Say whether rows of these needs may join."""

    def take(self, needs: Items[Need]) -> None:
        """Count rows in, whether they fit or not."""


class Beginning(Protocol):
    """The keys and values of a prompt's first tokens, kept beyond the life of the row that computed them."""

    def fill(self, slot: int, num_tokens: int) -> None:
        """Put the first of them, a multiple of the cache's block, into a slot."""

    def drop(self) -> None:
        """Give their memory back."""


class Cache(Protocol):
    """Keys and values of rows in slots [0, max_rows). A slot holds the positions from 0 on."""

    block_tokens: int  # beginnings are kept in multiples of so many tokens
    budget_tokens: int  # what it may hold; lowered for a time where memory is short
    prefix_budget_tokens: int  # of these, what kept beginnings may take
    num_shortages: int  # how often rows could not grow for want of room, not of memory
    reclaim: Callable[[], bool]  # drops the kept beginning that is missed least; False where there is none

    @property
    def num_bytes(self) -> int:
        """Memory held."""

    @property
    def holds_rows(self) -> bool:
        """Whether slots hold what was written to them: nothing has failed that cost their contents."""

    def room(self, live: Items[Need], *, optimistic: bool) -> Room:
        """Say what is left beside live rows. `optimistic`: they need not all come to fit at their longest."""

    def may_fit(self, needs: Items[Need]) -> bool:
        """Say whether rows may ever be live together. One row always may."""

    def reserve(self, num_live: int, num_rows: int, max_tokens: int) -> None:
        """Have memory for num_rows rows, the longest of max_tokens positions; the first num_live keep theirs.

        Raises what torch raises where memory is short; nothing has changed then, or `holds_rows` is False.
        """

    def open(self, spans: Items[tuple[int, int, int]]) -> None:
        """Let (slot, start, end) be written to, positions [start, end), by that row alone. Raises MemoryError."""

    def grow(self, ends: Items[int]) -> None:
        """Let slots [0, n) hold ends[slot] positions each, and the others nothing of use. Raises MemoryError.

        A decode step follows, which may write to the first positions of the others: rows that are computed anew.
        """

    def move(self, dst: int, src: int, num_tokens: int) -> None:
        """Put a slot's first positions into another one, whose own are forgotten. src holds nothing of use then."""

    def swap(self, a: int, b: int, num_tokens: int) -> None:
        """Put b's first positions into a; b is to be computed anew, and may write where a did."""

    def share(self, dst: int, src: int, num_tokens: int, *, start: int = 0) -> None:
        """Let dst hold the first positions of src as well, of which it has those before `start` already.

        Raises MemoryError.
        """

    def keep_first(self, num_rows: int) -> None:
        """Forget what slots from num_rows on hold."""

    def clear(self, slot: int) -> None:
        """See that no NaN in a slot reaches another row."""

    def keep(self, slot: int, num_tokens: int) -> Beginning:
        """Keep a slot's first positions, a multiple of the block."""

    def release(self) -> None:
        """Give all memory back, and the contents with it."""


def nothing_kept() -> bool:
    """What `reclaim` is where nobody keeps beginnings."""
    return False
