"""Keys and values in pages: rows take them as they grow, and rows that begin alike read the same ones.

The host knows which page is whose (pages.py); the device has the numbers in a block table, which is written without
waiting for it whenever rows have changed.
"""

from collections.abc import Sequence as Items

import torch
from torch import Tensor

from worker.engine.cache import Need, nothing_kept
from worker.engine.cuda.pages import PAGE_TOKENS, OutOfPages, PagePool, pages_of
from worker.engine.cuda.room import PagedRoom
from worker.engine.cuda.tables import BlockTables
from worker.engine.faults import is_allocation_failure
from worker.engine.linear import ROW_MULTIPLE, round_up
from worker.engine.spec import Spec

# Tokens that every row can still grow by when a row is admitted that may not fit to its end: those who end meanwhile
# make room for the others, mostly, and a row taken back costs its whole computation.
MARGIN_TOKENS = 2 * PAGE_TOKENS


class PagedCache:
    """k and v of each layer are [pages + 1, Hkv, P, D], taken all at once; row b's pages are numbered in tables[b].

    Invariant: a page that two read is full, so that nobody writes to it. Where a table ends it holds 0, the page that
    is nobody's. `epoch` counts the times that k and v became other tensors; `tables` stays one and the same.
    """

    block_tokens = PAGE_TOKENS

    def __init__(
        self,
        spec: Spec,
        *,
        max_rows: int,
        max_tokens: int,
        budget_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """`max_tokens`: of the longest row there may be; so many are always allowed for, whatever the budget."""
        self._full_pages = max(budget_tokens // PAGE_TOKENS, pages_of(max_tokens))
        self.budget_tokens = self.prefix_budget_tokens = self._full_pages * PAGE_TOKENS
        self.reclaim = nothing_kept
        self.num_shortages = self.epoch = 0
        self._shape = (spec.num_kv_heads, PAGE_TOKENS, spec.head_dim)
        self._num_layers, self._dtype, self._device = spec.num_layers, dtype, device
        num_rows = round_up(max_rows, ROW_MULTIPLE)
        self._rows = BlockTables(num_rows, pages_of(max_tokens), device)
        self.tables = self._rows.tensor  # [S, M]
        self._memory: Tensor | None = None  # [L, 2, pages + 1, Hkv, P, D]
        self._pool = PagePool(0)
        self.k: list[Tensor] = []
        self.v: list[Tensor] = []

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        return 0 if self._memory is None else self._memory.nbytes

    @property
    def holds_rows(self) -> bool:
        """Whether pages hold what was written to them."""
        return self._memory is not None

    def room(self, live: Items[Need], *, optimistic: bool) -> "PagedRoom":
        """Say what is left beside live rows, which lie in slots [0, n), in pages."""
        margin = MARGIN_TOKENS if optimistic else None
        if self._memory is None:
            return PagedRoom(self.budget_tokens // PAGE_TOKENS, margin)
        room = PagedRoom(self._pool.num_unused, margin)
        for slot, need in enumerate(live):
            room.leave(need, len(self._rows[slot]))
        return room

    def may_fit(self, needs: Items[Need]) -> bool:
        """Say whether rows may ever be live together, to the longest that they may become."""
        return len(needs) <= 1 or PagedRoom(self._full_pages, None).fits(needs)

    def reserve(self, num_live: int, num_rows: int, max_tokens: int) -> None:
        """Take the memory, where that has not been done: pages are rows' from `open` and `grow` on.

        Where it was less than the budget is now, more is taken once no row is live.
        """
        del num_rows
        self.keep_first(num_live)
        number = self.budget_tokens // PAGE_TOKENS
        if self._memory is not None and (num_live or self._pool.num_pages >= number):
            return
        while self.reclaim():
            pass
        self._forget()
        while True:
            try:
                self._allocate(number)
            except (RuntimeError, MemoryError) as error:
                if not is_allocation_failure(error) or number <= pages_of(max_tokens):
                    raise
                number = max(number // 2, pages_of(max_tokens))
                self.budget_tokens = number * PAGE_TOKENS
            else:
                return

    def _forget(self) -> None:
        self._memory, self._pool, self.k, self.v = None, PagePool(0), [], []

    def _allocate(self, num_pages: int) -> None:
        shape = (self._num_layers, 2, num_pages + 1, *self._shape)
        # Not zeros: what no token was written to is masked when it is read, NaN and all.
        self._memory = torch.empty(shape, dtype=self._dtype, device=self._device)
        self._pool = PagePool(num_pages)
        self.k, self.v = list(self._memory[:, 0]), list(self._memory[:, 1])
        self.epoch += 1

    def open(self, spans: Items[tuple[int, int, int]]) -> None:
        """Let positions [start, end) of slots be written to. Raises OutOfPages.

        What others read too makes way for pages of the row's own: a row whose context moves on is computed anew, over
        what it may have shared.
        """
        wanted = []
        for slot, start, end in spans:
            held = self._rows[slot]
            written = range(start // PAGE_TOKENS, min(len(held), pages_of(end)))
            shared = [index for index in written if self._pool.is_shared(held[index])]
            wanted.append((slot, start, shared, max(pages_of(end) - len(held), 0)))
        pages = self._take(sum(len(shared) + more for _, _, shared, more in wanted))
        for slot, start, shared, more in wanted:
            for index in shared:
                self._replace(slot, index, pages.pop(), copy=index * PAGE_TOKENS < start)
            self._rows.append(slot, [pages.pop() for _ in range(more)])
        self._rows.upload()

    def grow(self, ends: Items[int]) -> None:
        """Let slots [0, n) hold ends[slot] positions each. Raises OutOfPages, and these hold what they held then.

        The others' pages are given back. A captured step writes for rows beyond the live ones, too, and where one waits
        there that is computed anew in every step, it would write to pages that others may read.
        """
        self.keep_first(len(ends))
        more = {slot: pages_of(end) - len(self._rows[slot]) for slot, end in enumerate(ends)}
        more = {slot: number for slot, number in more.items() if number > 0}
        pages = self._take(sum(more.values()))
        for slot, number in more.items():
            self._rows.append(slot, [pages.pop() for _ in range(number)])
        self._rows.upload()

    def move(self, dst: int, src: int, num_tokens: int) -> None:
        """Put a slot's pages into another one, whose own are given back."""
        del num_tokens
        self._let_go(dst)
        self._rows.swap(dst, src)

    def swap(self, a: int, b: int, num_tokens: int) -> None:
        """Let two slots exchange their pages."""
        del num_tokens
        self._rows.swap(a, b)

    def share(self, dst: int, src: int, num_tokens: int, *, start: int = 0) -> None:
        """Let dst read the full pages of src, and have a copy of the last one. Raises OutOfPages.

        Never where dst has held as many positions before: it gives the page back that it takes.
        """
        del start
        self._let_go(dst)
        full = num_tokens // PAGE_TOKENS
        pages = self._rows[src][:full]
        self._pool.share(pages)
        self._rows.append(dst, pages)
        if num_tokens % PAGE_TOKENS:
            [page] = self._take(1)
            self._copy(page, self._rows[src][full])
            self._rows.append(dst, [page])

    def keep_first(self, num_rows: int) -> None:
        """Give back the pages of slots from num_rows on."""
        for slot in range(num_rows, len(self._rows)):
            self._let_go(slot)

    def clear(self, slot: int) -> None:
        """Do nothing: a page's next row reads no position that it has not written, so a NaN does no harm there."""

    def keep(self, slot: int, num_tokens: int) -> "KeptPages":
        """Keep a slot's first pages, which are full."""
        return KeptPages(self, self._rows[slot][: num_tokens // PAGE_TOKENS])

    def release(self) -> None:
        """Give all memory back, and the contents with it; half of it is taken again."""
        self.keep_first(0)
        self._forget()
        self.budget_tokens = max(self.budget_tokens // 2, PAGE_TOKENS)

    @property
    def pool(self) -> PagePool:
        """Whose pages are whose."""
        return self._pool

    def use(self, slot: int, pages: list[int]) -> None:
        """Let a slot hold pages that somebody uses or keeps, and nothing else."""
        self._let_go(slot)
        self._pool.share(pages)
        self._rows.append(slot, pages)

    def _take(self, number: int) -> list[int]:
        """Take pages, beginnings kept for later giving way. Raises OutOfPages."""
        while number > self._pool.num_free and self.reclaim():
            pass
        try:
            return self._pool.take(number)
        except OutOfPages:
            self.num_shortages += 1
            raise

    def _let_go(self, slot: int) -> None:
        self._pool.give_back(self._rows.empty(slot))

    def _replace(self, slot: int, index: int, page: int, *, copy: bool) -> None:
        old = self._rows[slot][index]
        if copy:
            self._copy(page, old)
        self._pool.give_back([old])
        self._rows.replace(slot, index, page)

    def _copy(self, dst: int, src: int) -> None:
        assert self._memory is not None, "pages are taken from memory that is there"
        self._memory[:, :, dst] = self._memory[:, :, src]


class KeptPages:
    """See `Beginning`. They stay while their memory does."""

    def __init__(self, cache: PagedCache, pages: list[int]) -> None:
        self._cache, self._pool, self._pages = cache, cache.pool, pages
        self._pool.keep(pages)

    def fill(self, slot: int, num_tokens: int) -> None:
        """Let a slot read the first of the pages."""
        assert self._pool is self._cache.pool, "whoever releases the memory forgets the beginnings first"
        self._cache.use(slot, self._pages[: num_tokens // PAGE_TOKENS])

    def drop(self) -> None:
        """Let go of the pages."""
        self._pool.let_go(self._pages)
