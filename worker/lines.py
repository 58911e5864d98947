"""A file of prompts line by line, in memory that does not depend on the file, nor on its longest line."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from models.batch_lines import BOM

HOLD_SECONDS = 0.00025  # of work on lines between two breaths
BREATH_SECONDS = 0.00005


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

    Takes a breath now and then: who works on lines in a worker holds the interpreter, for which the decoding thread
    would wait 5 ms at each of its turns.
    """
    end, breathed = file.tell(), time.perf_counter()
    while raw := file.readline(max_bytes + 2):
        end += len(raw)
        rest = raw
        while not rest.endswith(b"\n") and (rest := file.readline(max_bytes + 2)):
            end += len(rest)
        number += 1
        head = raw.removeprefix(BOM) if number == 1 else raw
        yield Line(number, head.rstrip(b"\r\n"), end)
        if time.perf_counter() - breathed > HOLD_SECONDS:
            time.sleep(BREATH_SECONDS)
            breathed = time.perf_counter()
