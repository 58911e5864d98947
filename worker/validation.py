"""The first pass over a batch's input file: is it sound as a whole? Nothing is stored of it but the verdict.

Memory is eight bytes a line, for telling repeated custom_ids; a million strings would be a hundred times that.
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from models.batch_lines import check_line
from models.errors import RequestError
from models.intake import DUPLICATE
from worker.lines import Line, read_lines

MAX_ERRORS = 100  # listed with a batch
NOTE_LINES = 20_000  # lines between two calls of `go_on`
HASH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """What the lines of an input file must keep to."""

    endpoint: str
    max_line_bytes: int
    max_requests: int


@dataclass(slots=True)
class Verdict:
    """How many requests the file holds and what is wrong with it, as OpenAI lists a batch's errors."""

    num_requests: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)

    def add(self, code: str, message: str, *, line: int | None, param: str | None = None) -> None:
        """One more error; of too many the first ones are kept."""
        if len(self.errors) < MAX_ERRORS:
            self.errors.append({"code": code, "message": message, "param": param, "line": line})


def validate(file: BinaryIO, limits: Limits, *, go_on: Callable[[int], bool]) -> Verdict | None:
    """Read the whole file, once more where a custom_id seems to be repeated. `go_on` is called now and then with the
    number of lines read; None: it said no. Raises what it raises.
    """
    verdict, ids = Verdict(), _Ids()
    for line in read_lines(file, max_bytes=limits.max_line_bytes):
        if line.number % NOTE_LINES == 0 and not go_on(line.number):
            return None
        if line.is_blank:
            continue
        if verdict.num_requests == limits.max_requests:
            message = f"the file holds more than {limits.max_requests} requests"
            verdict.add("too_many_requests_in_file", message, line=line.number)
            return verdict
        verdict.num_requests += 1
        custom_id = _check(line, limits, verdict)
        if custom_id is not None:
            ids.add(custom_id)
    if not verdict.num_requests:
        verdict.add("empty_file", "the file holds no requests", line=None)
    repeated = ids.repeated()
    if repeated and not _find_repeated(file, limits, ids, repeated, verdict, go_on):
        return None
    return verdict


def _check(line: Line, limits: Limits, verdict: Verdict) -> str | None:
    try:
        return check_line(line.raw, endpoint=limits.endpoint, max_bytes=limits.max_line_bytes)
    except RequestError as error:
        verdict.add(error.error_code, error.message, line=line.number, param=error.param)
        return None


class _Ids:
    """Hashes of the custom_ids in the order of the lines, under a key of our own: nobody can make them collide."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(16)
        self._hashes = bytearray()

    def hash(self, custom_id: str) -> bytes:
        return hashlib.blake2b(custom_id.encode(), digest_size=HASH_BYTES, key=self._key).digest()

    def add(self, custom_id: str) -> None:
        self._hashes += self.hash(custom_id)

    def repeated(self) -> frozenset[bytes]:
        """The hashes that come more than once, those alone whose second time comes among the first hundred."""
        hashes = np.frombuffer(self._hashes, np.uint64)
        ordered = np.sort(hashes)
        twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        seen: set[int] = set()
        found: set[int] = set()
        num_again = 0
        for value in hashes[np.isin(hashes, twice)] if len(twice) else ():
            if value in seen:
                found.add(value)
                num_again += 1
            if num_again == MAX_ERRORS:
                break
            seen.add(value)
        return frozenset(np.uint64(value).tobytes() for value in found)


def _find_repeated(
    file: BinaryIO,
    limits: Limits,
    ids: _Ids,
    suspects: frozenset[bytes],
    verdict: Verdict,
    go_on: Callable[[int], bool],
) -> bool:
    """Look again at the lines with these hashes, for two that are equal may be of different ids. Returns False where
    `go_on` said no."""
    seen: set[str] = set()
    found = Verdict()
    file.seek(0)
    for line in read_lines(file, max_bytes=limits.max_line_bytes):
        if line.number % NOTE_LINES == 0 and not go_on(line.number):
            return False
        custom_id = None if line.is_blank else _check(line, limits, Verdict())
        if custom_id is None or ids.hash(custom_id) not in suspects:
            continue
        if custom_id in seen:
            found.add(DUPLICATE, "an earlier line has this custom_id", line=line.number, param="custom_id")
        seen.add(custom_id)
        if len(found.errors) == MAX_ERRORS:
            break
    verdict.errors = sorted(verdict.errors + found.errors, key=lambda error: int(error["line"]))[:MAX_ERRORS]
    return True
