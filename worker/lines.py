"""A file of prompts line by line, in memory that does not depend on the file, nor on its longest line."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from models.batch_lines import BOM

YIELD_LINES = 16  # lines between two breaths
YIELD_SECONDS = 0.00005


@dataclass(frozen=True, slots=True)
class Line:
    """A line as read: its number from 1, its bytes (cut just above the limit), the file offset behind it."""

    number: int
    raw: bytes
    end: int

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing in it; such a line is skipped."""
        return not self.raw.strip()


def read_lines(file: BinaryIO, *, max_bytes: int, number: int = 0) -> Iterator[Line]:
    """Read from where the file stands; `number` lines came before. Of a line over the limit only the head is kept.

    Takes a breath now and then: who parses lines in a worker holds the interpreter, for which the decoding thread
    would wait 5 ms at each of its turns.
    """
    end = file.tell()
    while raw := file.readline(max_bytes + 2):
        end += len(raw)
        rest = raw
        while not rest.endswith(b"\n") and (rest := file.readline(max_bytes + 2)):
            end += len(rest)
        number += 1
        head = raw.removeprefix(BOM) if number == 1 else raw
        yield Line(number, head.rstrip(b"\r\n"), end)
        if number % YIELD_LINES == 0:
            time.sleep(YIELD_SECONDS)
