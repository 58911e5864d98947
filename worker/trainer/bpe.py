"""Trains a byte-level BPE vocabulary in tiktoken's rank format, exact with what tiktoken makes of the ranks.

A vocabulary is `ranks`: token bytes -> rank. Encoding a chunk merges the neighbours whose concatenation has the
lowest rank until none has one; training adds, again and again, the commonest concatenation of two neighbours.
"""

import base64
import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

# One meaning in Python's `re` and in tiktoken's Rust engine, hence no \s, \w or \p{...}. As in GPT-4's pattern a word
# takes one character before it along (" the", ".dumps", "_text"), digits go by threes, and the last of several spaces
# belongs to the next word.
PATTERN = r"[^\t\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]{1,3}| ?[^ \t\r\nA-Za-z0-9]+|[ \t\r\n]+(?![^ \t\r\n])|[ \t\r\n]+"

Ranks = dict[bytes, int]


def train_ranks(texts: Iterable[str], *, num_ranks: int, pattern: str = PATTERN) -> Ranks:
    """Learn up to `num_ranks` tokens: the 256 bytes, then merges while any pair of neighbours occurs twice.

    Ties go to the smaller bytes, so the same texts give the same ranks everywhere.
    """
    if num_ranks < 256:
        raise ValueError(f"a byte-level vocabulary holds at least the 256 bytes, not {num_ranks}")
    chunks = Counter(chunk.encode() for text in texts for chunk in re.findall(pattern, text))
    ranks = {bytes([byte]): byte for byte in range(256)}
    pairs = _PairCounts(chunks)
    while len(ranks) < num_ranks and (token := pairs.commonest()) is not None:
        ranks[token] = len(ranks)
        pairs.merge(token, ranks)
    return ranks


def encode_chunk(chunk: bytes, ranks: Ranks) -> list[bytes]:
    """Split one chunk as tiktoken does: known whole, or lowest-ranked neighbours first, leftmost on ties."""
    if chunk in ranks:
        return [chunk]
    parts = [chunk[i : i + 1] for i in range(len(chunk))]
    while len(parts) > 1:
        best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], len(ranks)))
        if parts[best] + parts[best + 1] not in ranks:
            break
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts


def write_ranks(path: Path, ranks: Ranks) -> None:
    """Write tiktoken's file format: base64 of the token's bytes, a space, its rank; one a line, by rank."""
    ordered = sorted(ranks, key=ranks.__getitem__)
    lines = [f"{base64.b64encode(token).decode()} {ranks[token]}\n" for token in ordered]
    path.write_text("".join(lines), encoding="ascii", newline="\n")


class _PairCounts:
    """How often each concatenation of two neighbours occurs; always true of the chunks as encoded so far.

    Counting concatenations and not pairs keeps training exact: "ab" + "c" and "a" + "bc" are one token.
    """

    def __init__(self, chunks: Counter[bytes]) -> None:
        self._weights = chunks
        self._parts = {chunk: [chunk[i : i + 1] for i in range(len(chunk))] for chunk in chunks}
        self._counts: Counter[bytes] = Counter()
        self._where: defaultdict[bytes, set[bytes]] = defaultdict(set)
        for chunk in chunks:
            self._add(chunk, sign=1)
        self._heap = [(-count, token) for token, count in self._counts.items()]
        heapq.heapify(self._heap)

    def commonest(self) -> bytes | None:
        """The commonest concatenation that occurs at least twice, or None. Entries of the heap may be stale."""
        while self._heap:
            count, token = self._heap[0]
            if self._counts[token] == -count:
                return token if -count > 1 else None
            heapq.heappop(self._heap)
        return None

    def merge(self, token: bytes, ranks: Ranks) -> None:
        """Encode again every chunk that a new token touches."""
        touched = self._where.pop(token) | ({token} & self._parts.keys())
        changed: set[bytes] = set()
        for chunk in touched:
            changed |= self._add(chunk, sign=-1)
            self._parts[chunk] = encode_chunk(chunk, ranks)
            changed |= self._add(chunk, sign=1)
        for pair in changed:
            heapq.heappush(self._heap, (-self._counts[pair], pair))

    def _add(self, chunk: bytes, *, sign: int) -> set[bytes]:
        """Count a chunk's neighbours in (sign 1) or out (-1) and return their concatenations."""
        parts = self._parts[chunk]
        joined = [left + right for left, right in pairwise(parts)]
        for pair in joined:
            self._counts[pair] += sign * self._weights[chunk]
            (self._where[pair].add if sign > 0 else self._where[pair].discard)(chunk)
        return set(joined)
