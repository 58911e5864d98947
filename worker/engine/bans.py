"""Tokens that a row may not choose: all but some allowed ones, and the ends of words it must not say.

A word of several tokens is banned at its last one, and only where the answer's newest tokens are the others. As vLLM's
bad_words, and as transformers' bad_words_ids but for the prompt, which does not count here.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from worker.engine.sequence import Sequence

_ANY, _NONE = -2, -1  # among the tokens before a word's last: any token; among last ones: no word
# Of a token that ends a bad word: below every score, but above a token that is not allowed at all. So a row always has
# something to choose, were it that every allowed token is banned.
BANNED = -1e30


@dataclass(slots=True)
class Bans:
    """What S rows may not choose. Invariant: every tensor's first axis is the row. Widths are 0 while no row asks."""

    asks: Tensor  # [S] bool
    allowed: Tensor  # [S, V] bool
    befores: Tensor  # [S, W, P] int64, a word's tokens but the last, to the right
    lasts: Tensor  # [S, W] int64
    newest: Tensor  # [S, P] int64, the answer's newest tokens, to the right

    @classmethod
    def allocate(cls, num_slots: int, *, device: torch.device) -> "Bans":
        """Make S rows that ask for nothing."""

        def integers(*shape: int) -> Tensor:
            return torch.zeros(num_slots, *shape, dtype=torch.int64, device=device)

        def booleans(*shape: int) -> Tensor:
            return torch.zeros(num_slots, *shape, dtype=torch.bool, device=device)

        return cls(asks=booleans(), allowed=booleans(0), befores=integers(0, 0), lasts=integers(0), newest=integers(0))

    def move(self, dst: int, src: int) -> None:
        """Copy a whole row to another slot."""
        for field in fields(self):
            tensor = getattr(self, field.name)
            tensor[dst] = tensor[src]

    def swap(self, a: int, b: int) -> None:
        """Let two rows change places."""
        for field in fields(self):
            tensor = getattr(self, field.name)
            tensor[[a, b]] = tensor[[b, a]]

    def start(self, first: int, sequences: Items[Sequence], *, vocab_size: int) -> None:
        """Fill rows [first, first + n) for newly admitted sequences; clear those that ask for nothing."""
        asking = {row: item for row, item in enumerate(sequences, first) if asks_bans(item)}
        if not asking and not self.allowed.shape[1] and not self.lasts.shape[1]:
            return
        if not asking and not self.asks[:first].any():  # no live row asks any more: give the memory back
            self._shrink()
            return
        words = [item.bad_words for item in asking.values()]
        self._reserve(
            num_words=max(map(len, words), default=0),
            num_before=max((len(word) - 1 for some in words for word in some), default=0),
            vocab_size=vocab_size if any(item.params.allowed_token_ids for item in asking.values()) else 0,
        )
        rows = slice(first, first + len(sequences))
        self.asks[rows], self.allowed[rows] = False, True
        self.befores[rows], self.lasts[rows], self.newest[rows] = _ANY, _NONE, _NONE
        for row, sequence in asking.items():
            self._fill(row, sequence)

    def _fill(self, row: int, sequence: Sequence) -> None:
        device = self.asks.device
        self.asks[row] = True
        if allowed := sequence.params.allowed_token_ids:
            self.allowed[row] = False
            self.allowed[row, torch.tensor(allowed).to(device)] = True
        for index, word in enumerate(sequence.bad_words):
            self.lasts[row, index] = word[-1]
            if len(word) > 1:
                self.befores[row, index, 1 - len(word) :] = torch.tensor(word[:-1]).to(device)

    def _shrink(self) -> None:
        empty = Bans.allocate(len(self.asks), device=self.asks.device)
        for field in fields(self):
            setattr(self, field.name, getattr(empty, field.name))

    def _reserve(self, *, num_words: int, num_before: int, vocab_size: int) -> None:
        """Widen what is too narrow; live rows keep what they hold."""
        pad = torch.nn.functional.pad
        words = max(num_words - self.lasts.shape[1], 0)
        before = max(num_before - self.newest.shape[1], 0)
        # All or, where memory ends, none.
        self.befores, self.lasts, self.newest, self.allowed = (
            pad(self.befores, (before, 0, 0, words), value=_ANY),
            pad(self.lasts, (0, words), value=_NONE),
            pad(self.newest, (before, 0), value=_NONE),
            pad(self.allowed, (0, max(vocab_size - self.allowed.shape[1], 0)), value=True),
        )

    def take(self, rows: slice | Tensor) -> "Bans | None":
        """The bans of some rows, by range or by index [B]; None if no row asks."""
        if not self.allowed.shape[1] and not self.lasts.shape[1]:
            return None
        return Bans(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def record(self, rows: slice, tokens: Tensor) -> None:
        """Note one new token [B] of each row."""
        if self.newest.shape[1]:
            self.newest[rows] = torch.cat([self.newest[rows, 1:], tokens[:, None]], 1)

    def apply(self, scores: Tensor) -> Tensor:
        """Change a copy of scores [B, V]. Scores of rows that ask for nothing keep their bits."""
        changed = scores.clone()
        if self.lasts.shape[1]:
            said = ((self.befores == self.newest[:, None]) | (self.befores == _ANY)).all(-1)  # [B, W]
            banned = said & (self.lasts >= 0)
            # The lowest of what is written wins, so that neither order nor a token named twice matters.
            lowest = torch.full_like(banned, torch.inf, dtype=scores.dtype).masked_fill_(banned, BANNED)
            changed.scatter_reduce_(1, self.lasts.clamp(min=0), lowest, "amin")
        if self.allowed.shape[1]:
            changed.masked_fill_(~self.allowed, -torch.inf)
        return changed


def asks_bans(sequence: Sequence) -> bool:
    """Whether a row must be kept from some tokens."""
    return bool(sequence.bad_words) or sequence.params.allowed_token_ids is not None
