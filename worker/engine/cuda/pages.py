"""Which pages of the cache are whose. Host only: what lies in them is the device's."""

from collections.abc import Iterable

PAGE_TOKENS = 64


class OutOfPages(MemoryError):
    """Fewer pages are free than asked for; nothing was taken."""


class PagePool:
    """Numbered pages, each with a count of those who read it: the beginning of a prompt is shared, not copied.

    Rows use pages; beginnings of prompts are kept for rows to come, and a page that is kept and not used can be had by
    letting go of it. Page 0 is nobody's. Where a block table holds nothing it holds 0, so that a stray read stays
    within the cache.
    """

    def __init__(self, num_pages: int) -> None:
        """Make `num_pages` pages beside page 0."""
        self.num_pages = num_pages
        self._free = list(range(num_pages, 0, -1))
        self._num_users = [0] * (num_pages + 1)
        self._num_keepers = [0] * (num_pages + 1)
        self._num_used = 0

    @property
    def num_free(self) -> int:
        """Pages that nobody uses or keeps."""
        return len(self._free)

    @property
    def num_unused(self) -> int:
        """Pages that nobody uses, those that are kept among them."""
        return self.num_pages - self._num_used

    def take(self, number: int) -> list[int]:
        """Take pages for one user. Raises OutOfPages."""
        if number > len(self._free):
            raise OutOfPages(f"{number} pages are wanted and {len(self._free)} free")
        pages = [self._free.pop() for _ in range(number)]
        for page in pages:
            self._num_users[page] = 1
        self._num_used += number
        return pages

    def share(self, pages: Iterable[int]) -> None:
        """Count one more user of pages that somebody uses or keeps."""
        for page in pages:
            self._check(page, self._num_users[page] + self._num_keepers[page])
            self._num_used += not self._num_users[page]
            self._num_users[page] += 1

    def give_back(self, pages: Iterable[int]) -> None:
        """Count one user less of each page; those of nobody are free again."""
        for page in pages:
            self._check(page, self._num_users[page])
            self._num_users[page] -= 1
            self._num_used -= not self._num_users[page]
            self._free_unwanted(page)

    def keep(self, pages: Iterable[int]) -> None:
        """Keep pages that somebody uses or keeps beyond that."""
        for page in pages:
            self._check(page, self._num_users[page] + self._num_keepers[page])
            self._num_keepers[page] += 1

    def let_go(self, pages: Iterable[int]) -> None:
        """Count one keeper less of each page; those of nobody are free again."""
        for page in pages:
            self._check(page, self._num_keepers[page])
            self._num_keepers[page] -= 1
            self._free_unwanted(page)

    def is_shared(self, page: int) -> bool:
        """Whether a page is more than one's: nobody may write to it then."""
        return self._num_users[page] + self._num_keepers[page] > 1

    def _check(self, page: int, count: int) -> None:
        if not count:
            raise ValueError(f"page {page} is free")

    def _free_unwanted(self, page: int) -> None:
        if not self._num_users[page] + self._num_keepers[page]:
            self._free.append(page)


def pages_of(num_tokens: int) -> int:
    """How many pages so many tokens take."""
    return -(-num_tokens // PAGE_TOKENS)
