"""Prompts that begin alike compute the common part once. Keeps the keys and values of such beginnings.

A beginning is cut at multiples of the cache's block, 32 tokens or a page, and named by a hash chained over its blocks.
It becomes worth keeping when a second prompt of the same owner has it; the next prompt to compute it leaves a copy, or
its pages, and later ones take those. Exact where attention is: keys and values depend on the tokens before them alone.
"""

from collections import OrderedDict
from collections.abc import Sequence as Items
from dataclasses import dataclass

from worker.engine.cache import Beginning, Cache

_MAX_SEEN = 1 << 17  # block hashes remembered


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """The keys and values of a prompt's first tokens."""

    name: int  # the hash of its last block
    owner: str
    token_ids: tuple[int, ...]
    beginning: Beginning


class PrefixStore:
    """Beginnings of prompts, least recently used out first, up to a budget of tokens."""

    def __init__(self, cache: Cache) -> None:
        self._cache, self._budget_tokens, self.block_tokens = cache, cache.prefix_budget_tokens, cache.block_tokens
        self._seen: OrderedDict[int, None] = OrderedDict()
        self._shared: OrderedDict[int, None] = OrderedDict()  # beginnings that at least two prompts had
        self._stored: dict[int, Prefix] = {}  # by the hash of every block of theirs
        self._by_use: OrderedDict[int, Prefix] = OrderedDict()  # by the hash of the last
        self.num_tokens = 0

    def note(self, owner: str, token_ids: Items[int]) -> list[int]:
        """Remember a prompt; gives the hashes of its beginnings, shortest first. Its last token is never shared."""
        hashes = hash_blocks(owner, token_ids, self.block_tokens)
        depth = sum(name in self._seen for name in hashes)
        if depth:
            _remember(self._shared, hashes[depth - 1])
        for name in hashes:
            _remember(self._seen, name)
        return hashes

    def find(self, owner: str, token_ids: Items[int], hashes: Items[int]) -> tuple[Prefix, int] | None:
        """Find the longest stored beginning of a prompt, and how many tokens of it are the prompt's."""
        for depth in range(len(hashes), 0, -1):
            prefix = self._stored.get(hashes[depth - 1])
            num_tokens = depth * self.block_tokens
            # The tokens are compared, not the hash trusted: another prompt's keys would be a wrong answer.
            if prefix and prefix.owner == owner and prefix.token_ids[:num_tokens] == tuple(token_ids[:num_tokens]):
                self._by_use.move_to_end(prefix.name)
                return prefix, num_tokens
        return None

    def wanted(self, hashes: Items[int]) -> int:
        """How many blocks of a prompt are worth storing once computed; 0 where none are, or they are there."""
        for depth in range(len(hashes), 0, -1):
            if hashes[depth - 1] in self._stored:
                return 0
            if hashes[depth - 1] in self._shared:
                return depth
        return 0

    def put(self, owner: str, token_ids: Items[int], hashes: Items[int], slot: int) -> None:
        """Keep a computed beginning of len(hashes) blocks in a slot; what does not fit is not asked for again."""
        num_tokens = len(hashes) * self.block_tokens
        if num_tokens > self._budget_tokens:
            self._shared.pop(hashes[-1], None)
            return
        while self.num_tokens + num_tokens > self._budget_tokens:
            self.evict()
        prefix = Prefix(hashes[-1], owner, tuple(token_ids[:num_tokens]), self._cache.keep(slot, num_tokens))
        self._by_use[hashes[-1]] = prefix
        self._stored |= dict.fromkeys(hashes, prefix)
        self.num_tokens += num_tokens

    def clear(self) -> None:
        """Drop what is stored."""
        for prefix in self._by_use.values():
            prefix.beginning.drop()
        self._stored.clear()
        self._by_use.clear()
        self.num_tokens = 0

    def evict(self) -> bool:
        """Drop what was not used for longest; False where nothing is stored."""
        if not self._by_use:
            return False
        _, prefix = self._by_use.popitem(last=False)
        prefix.beginning.drop()
        self._stored = {name: other for name, other in self._stored.items() if other is not prefix}
        self.num_tokens -= len(prefix.token_ids)
        return True


def hash_blocks(owner: str, token_ids: Items[int], block_tokens: int) -> list[int]:
    """Hash each beginning of a prompt that is a multiple of the block and leaves at least one token over."""
    hashes: list[int] = []
    name = hash(owner)
    for end in range(block_tokens, len(token_ids), block_tokens):
        name = hash((name, *token_ids[end - block_tokens : end]))
        hashes.append(name)
    return hashes


def _remember(names: OrderedDict[int, None], name: int) -> None:
    names[name] = None
    names.move_to_end(name)
    if len(names) > _MAX_SEEN:
        names.popitem(last=False)
