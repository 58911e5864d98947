"""The block tables: which pages each row holds, in order, on the host and on the device."""

from collections.abc import Iterable

import torch

from worker.engine.sending import send


class BlockTables:
    """Lists of pages by row; `tensor` [S, M] int32 is what the device knows of them as of the last `upload`.

    Where a row's list ends the tensor holds 0, the page that is nobody's.
    """

    def __init__(self, num_rows: int, num_columns: int, device: torch.device) -> None:
        self.tensor = torch.zeros(num_rows, num_columns, dtype=torch.int32, device=device)
        self._pages: list[list[int]] = [[] for _ in range(num_rows)]
        self._changed: set[int] = set()  # rows that the device does not know yet

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._pages)

    def __getitem__(self, row: int) -> list[int]:
        """A row's pages; to be changed here alone."""
        return self._pages[row]

    def append(self, row: int, pages: Iterable[int]) -> None:
        """Let a row hold more pages."""
        self._pages[row] += pages
        self._changed.add(row)

    def replace(self, row: int, index: int, page: int) -> None:
        """Put another page in the place of one."""
        self._pages[row][index] = page
        self._changed.add(row)

    def swap(self, a: int, b: int) -> None:
        """Let two rows exchange their pages."""
        self._pages[a], self._pages[b] = self._pages[b], self._pages[a]
        self._changed |= {a, b}

    def empty(self, row: int) -> list[int]:
        """Let a row hold nothing; gives what it held."""
        pages, self._pages[row] = self._pages[row], []
        if pages:
            self._changed.add(row)
        return pages

    def upload(self) -> None:
        """Tell the device of the rows that changed, without waiting for it."""
        if not self._changed:
            return
        rows = sorted(self._changed)
        width, device = self.tensor.shape[1], self.tensor.device
        tables = [self._pages[row] + [0] * (width - len(self._pages[row])) for row in rows]
        self.tensor.index_copy_(0, send(rows, torch.int64, device), send(tables, torch.int32, device))
        self._changed.clear()
