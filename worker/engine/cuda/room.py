"""How many pages an admission has to give, and what rows need of them. No tensors."""

from collections.abc import Sequence as Items

from worker.engine.cache import Need
from worker.engine.cuda.pages import PAGE_TOKENS, pages_of


class PagedRoom:
    """See `Room`. Each row is to have `margin` tokens to grow by, or with None all that it may become."""

    def __init__(self, num_pages: int, margin: int | None) -> None:
        self._num_pages, self._margin = num_pages, margin

    def fits(self, needs: Items[Need]) -> bool:
        """Say whether rows of these needs may join."""
        return sum(map(self._pages_of, needs)) <= self._num_pages

    def take(self, needs: Items[Need]) -> None:
        """Count rows in, whether they fit or not."""
        self._num_pages -= sum(map(self._pages_of, needs))

    def leave(self, need: Need, num_held: int) -> None:
        """Leave a live row what it is still to have beside the pages that it holds."""
        self._num_pages -= max(self._pages_of(need) - num_held, 0)

    def _pages_of(self, need: Need) -> int:
        longest = need.max_length if self._margin is None else min(need.max_length, need.length + self._margin)
        return pages_of(longest) - need.shared // PAGE_TOKENS
