"""The contract of a cache, held by slots and by pages; and what pages add to it."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from worker.engine.cache import Beginning, Cache, Need
from worker.engine.cuda.cache import MARGIN_TOKENS, PagedCache
from worker.engine.cuda.pages import PAGE_TOKENS, OutOfPages, pages_of
from worker.engine.kv_cache import KVCache, token_bytes
from worker.engine.spec import Spec

SPEC = Spec(
    vocab_size=10,
    hidden_size=8,
    intermediate_size=8,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    context_length=640,
)
CPU = torch.device("cpu")


def paged(pages: int = 12, *, max_tokens: int = 320, max_rows: int = 4) -> PagedCache:
    cache = PagedCache(
        SPEC,
        max_rows=max_rows,
        max_tokens=max_tokens,
        budget_tokens=pages * PAGE_TOKENS,
        dtype=torch.float32,
        device=CPU,
    )
    cache.reserve(0, max_rows, max_tokens)
    for tensor in (*cache.k, *cache.v):
        tensor.fill_(torch.nan)  # nobody may read what nobody wrote
    return cache


def dense(key_block: int | None = None) -> KVCache:
    cache = KVCache(SPEC, max_rows=4, budget_tokens=4096, dtype=torch.float32, device=CPU, key_block=key_block)
    cache.reserve(0, 4, 320)
    return cache


@pytest.fixture(params=["slots", "blocks", "pages"])
def cache(request: pytest.FixtureRequest) -> Cache:
    return paged() if request.param == "pages" else dense(16 if request.param == "blocks" else None)


def write(cache: Cache, slot: int, start: int, values: Sequence[float]) -> None:
    """Put a number into every key of a position, and its negative into every value."""
    cache.open([(slot, start, start + len(values))])
    for position, value in enumerate(values, start):
        for layer in range(SPEC.num_layers):
            keys, held = _at(cache, layer, slot, position)
            keys.fill_(value + layer)
            held.fill_(-value - layer)


def read(cache: Cache, slot: int, num_tokens: int) -> list[float]:
    """The numbers that were put there; fails where a layer's keys and values do not agree."""
    numbers = []
    for position in range(num_tokens):
        found = set()
        for layer in range(SPEC.num_layers):
            keys, values = _at(cache, layer, slot, position)
            found |= {number - layer for number in (*keys.flatten().tolist(), *(-values).flatten().tolist())}
        [number] = found
        numbers.append(number)
    return numbers


def _at(cache: Cache, layer: int, slot: int, position: int) -> tuple[Tensor, Tensor]:
    """A position's keys and values [Hkv, D], as attention finds them."""
    if isinstance(cache, PagedCache):
        page, place = int(cache.tables[slot, position // PAGE_TOKENS]), position % PAGE_TOKENS
        assert page, "page 0 is nobody's"
        return cache.k[layer][page, :, place], cache.v[layer][page, :, place]
    assert isinstance(cache, KVCache)
    values = cache.v[layer][slot, :, position]
    if cache.key_block is None:
        return cache.k[layer][slot, :, position], values
    return cache.k[layer][slot, :, position // cache.key_block, :, position % cache.key_block], values


def numbers(length: int, first: int = 0) -> list[float]:
    return [float(number) for number in range(first, first + length)]


def test_a_row_holds_what_was_written_as_it_grows(cache: Cache) -> None:
    write(cache, 0, 0, numbers(70))
    write(cache, 1, 0, numbers(5, 500))
    cache.grow([71, 6])
    write(cache, 0, 70, numbers(130, 70))
    assert read(cache, 0, 200) == numbers(200)
    assert read(cache, 1, 5) == numbers(5, 500)


@pytest.mark.parametrize("length", [1, 64, 70])
def test_a_row_moves(cache: Cache, length: int) -> None:
    write(cache, 0, 0, numbers(150))
    write(cache, 2, 0, numbers(length, 300))
    cache.move(0, 2, length)
    cache.keep_first(1)
    cache.grow([length + 1])
    assert read(cache, 0, length) == numbers(length, 300)
    write(cache, 2, 0, numbers(64, 700))
    assert read(cache, 0, length) == numbers(length, 300)


def test_a_row_swapped_to_the_front_holds_what_it_held(cache: Cache) -> None:
    write(cache, 0, 0, numbers(80))
    write(cache, 1, 0, numbers(66, 300))
    cache.swap(0, 1, 66)
    write(cache, 1, 0, numbers(80, 900))
    assert read(cache, 0, 66) == numbers(66, 300)
    assert read(cache, 1, 80) == numbers(80, 900)


@pytest.mark.parametrize("length", [1, 64, 70, 128])
def test_rows_that_share_go_on_by_themselves(cache: Cache, length: int) -> None:
    write(cache, 0, 0, numbers(length))
    cache.share(1, 0, length)
    for slot in (0, 1):
        write(cache, slot, length, numbers(70, 1000 * slot))
    for slot in (0, 1):
        assert read(cache, slot, length + 70) == numbers(length) + numbers(70, 1000 * slot)
    cache.share(1, 0, length + 70, start=length)  # as a beam over one that died
    write(cache, 1, length + 70, [9.0])
    assert read(cache, 1, length + 71) == [*numbers(length), *numbers(70), 9.0]
    assert read(cache, 0, length + 70) == numbers(length) + numbers(70)


def test_what_is_shared_may_be_written_anew(cache: Cache) -> None:
    """As by a row whose context moves on."""
    write(cache, 0, 0, numbers(140))
    for slot in (1, 2):
        cache.share(slot, 0, 140)
    write(cache, 1, 0, numbers(140, 500))
    write(cache, 2, 40, numbers(100, 800))
    assert read(cache, 0, 140) == numbers(140)
    assert read(cache, 1, 140) == numbers(140, 500)
    assert read(cache, 2, 140) == numbers(40) + numbers(100, 800)


def test_a_beginning_outlives_its_row(cache: Cache) -> None:
    length = 2 * PAGE_TOKENS
    assert length % cache.block_tokens == 0
    write(cache, 0, 0, numbers(length + 3))
    beginning = cache.keep(0, length)
    cache.keep_first(0)
    write(cache, 0, 0, numbers(length, 700))
    for slot, taken in ((1, length), (2, PAGE_TOKENS)):
        beginning.fill(slot, taken)
        write(cache, slot, taken, [5.0])
        cache.grow([length, *[taken + 1] * slot])
    beginning.drop()
    assert read(cache, 1, length + 1) == [*numbers(length), 5.0]
    assert read(cache, 2, PAGE_TOKENS + 1) == [*numbers(PAGE_TOKENS), 5.0]


def test_released_memory_is_gone_and_comes_again(cache: Cache) -> None:
    write(cache, 0, 0, numbers(3))
    cache.release()
    assert (cache.num_bytes, cache.holds_rows) == (0, False)
    cache.reserve(0, 1, 100)
    assert cache.holds_rows
    write(cache, 0, 0, numbers(3))
    assert read(cache, 0, 3) == numbers(3)


def test_one_row_always_may_fit_and_the_last_ones_do_not(cache: Cache) -> None:
    long = Need(10, 320)
    assert cache.may_fit([long])
    assert cache.may_fit([long] * 2)
    assert not cache.may_fit([long] * 100)
    for live in ([], [long]):
        room, num_rows = cache.room(live, optimistic=False), len(live)
        while room.fits([long]):
            room.take([long])
            num_rows += 1
        assert num_rows == (12 // 5 if isinstance(cache, PagedCache) else 4096 // 512)


def test_the_memory_is_taken_at_once_and_is_what_the_formula_says() -> None:
    cache = paged(12)
    assert cache.num_bytes == 13 * PAGE_TOKENS * token_bytes(SPEC, torch.float32)
    assert cache.k[0].is_contiguous()
    assert cache.k[0].shape == (13, 2, PAGE_TOKENS, 4)
    before = cache.epoch, cache.k[0].data_ptr(), cache.tables.data_ptr()
    cache.reserve(0, 4, 320)
    write(cache, 0, 0, numbers(100))
    assert (cache.epoch, cache.k[0].data_ptr(), cache.tables.data_ptr()) == before


def test_memory_that_was_short_is_taken_once_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less where the device has less, and more again when no row is live and the budget is back."""
    cache, real = paged(16), torch.empty
    cache.release()
    cache.budget_tokens = 16 * PAGE_TOKENS

    def limited(shape: tuple[int, ...], **options: Any) -> Tensor:  # noqa: ANN401
        if shape[2] > 7:
            raise torch.OutOfMemoryError("6 pages are all there is")
        return real(shape, **options)

    monkeypatch.setattr(torch, "empty", limited)
    with pytest.raises(torch.OutOfMemoryError):
        cache.reserve(0, 1, 7 * PAGE_TOKENS)
    assert not cache.holds_rows
    cache.budget_tokens = 16 * PAGE_TOKENS
    cache.reserve(0, 1, 320)
    assert (cache.pool.num_pages, cache.budget_tokens) == (5, 5 * PAGE_TOKENS)
    monkeypatch.setattr(torch, "empty", real)
    write(cache, 0, 0, [1.0])
    kept = [cache.keep(0, 0)]

    def reclaim() -> bool:
        for beginning in kept:
            beginning.drop()
        kept.clear()
        return False

    cache.reclaim, cache.budget_tokens = reclaim, 16 * PAGE_TOKENS
    epoch = cache.epoch
    cache.reserve(1, 2, 320)
    assert (cache.pool.num_pages, cache.epoch, len(kept)) == (5, epoch, 1)
    cache.reserve(0, 1, 320)
    assert (cache.pool.num_pages, cache.epoch, len(kept)) == (16, epoch + 1, 0)
    write(cache, 0, 0, numbers(70))
    assert read(cache, 0, 70) == numbers(70)


def test_the_longest_row_fits_whatever_the_budget() -> None:
    cache = paged(1, max_tokens=300)
    write(cache, 0, 0, numbers(300))
    assert cache.pool.num_free == 0


def test_a_row_behind_those_that_grow_is_out_of_their_steps_way() -> None:
    """A step of the bucket writes for it as well, at its first position, and its pages may be others', too."""
    cache = paged(5)
    write(cache, 0, 0, numbers(100))
    cache.share(1, 0, 100)
    cache.grow([101])
    assert not cache.tables[1].any()
    assert cache.pool.num_free == 3
    assert read(cache, 0, 100) == numbers(100)


def test_too_few_pages_change_nothing() -> None:
    cache = paged(5)
    write(cache, 0, 0, numbers(190))
    cache.grow([190, 64])
    with pytest.raises(OutOfPages):
        cache.grow([193, 65])
    assert cache.num_shortages == 1
    assert cache.pool.num_free == 1
    cache.grow([192, 65])


def test_kept_pages_give_way_to_rows() -> None:
    cache = paged(5)
    write(cache, 0, 0, numbers(130))
    kept = [cache.keep(0, 64), cache.keep(0, 128)]
    cache.keep_first(0)
    assert (cache.pool.num_free, cache.pool.num_unused) == (3, 5)
    assert cache.room([], optimistic=False).fits([Need(1, 320)])

    def reclaim() -> bool:
        if kept:
            kept.pop(0).drop()
        return bool(kept)

    cache.reclaim = reclaim
    write(cache, 0, 0, numbers(64 * 3))
    assert len(kept) == 2
    write(cache, 1, 0, numbers(1))
    assert kept == []


def test_rows_are_counted_each_by_its_own_length() -> None:
    """And no page that two of them share is counted twice."""
    cache = paged(12)
    write(cache, 0, 0, numbers(130))
    cache.share(1, 0, 130)
    live = [Need(130, 200), Need(130, 135)]
    assert cache.pool.num_free == 12 - 4
    room = cache.room(live, optimistic=False)  # one page more to come for the first
    assert room.fits([Need(1, 7 * PAGE_TOKENS)])
    assert not room.fits([Need(1, 7 * PAGE_TOKENS + 1)])
    room.take([Need(64, 300)])
    assert room.fits([Need(64, 128), *[Need(64, 64, shared=64)] * 9])
    assert not room.fits([Need(64, 129)])


def test_hope_counts_what_rows_take_now_and_a_margin() -> None:
    cache = paged(12)
    cache.grow([PAGE_TOKENS])
    room = cache.room([Need(PAGE_TOKENS, 320)], optimistic=True)
    left = 12 - pages_of(PAGE_TOKENS + MARGIN_TOKENS)
    assert room.fits([Need(1, 320)] * (left // pages_of(1 + MARGIN_TOKENS)))
    assert not room.fits([Need(1, 320)] * (left // pages_of(1 + MARGIN_TOKENS) + 1))
    assert room.fits([Need(1, 10)] * left)


class Played:
    """A cache of 9 pages and what its rows should hold, as lists of numbers. Methods are what may happen to rows."""

    def __init__(self) -> None:
        self.cache = paged(9)
        self.rows: list[list[float]] = [[] for _ in range(4)]
        self.kept: list[tuple[Beginning, list[float]]] = []

    def extend(self, a: int, _: int, fresh: list[float]) -> None:
        more = fresh[: 300 - len(self.rows[a])]
        write(self.cache, a, len(self.rows[a]), more)
        self.rows[a] += more

    def rewrite(self, a: int, b: int, fresh: list[float]) -> None:
        start = len(self.rows[a]) * b // 4
        new = fresh[: len(self.rows[a]) - start]
        write(self.cache, a, start, new)
        self.rows[a][start : start + len(new)] = new

    def move(self, a: int, b: int, _: list[float]) -> None:
        if a != b:
            self.cache.move(a, b, len(self.rows[b]))
            self.rows[a], self.rows[b] = self.rows[b], []

    def swap(self, a: int, b: int, _: list[float]) -> None:
        self.cache.swap(a, b, len(self.rows[b]))
        self.rows[a], self.rows[b] = self.rows[b], self.rows[a]

    def share(self, a: int, b: int, _: list[float]) -> None:
        if a != b:
            self.rows[a] = []  # should pages end on the way
            self.cache.share(a, b, len(self.rows[b]))
            self.rows[a] = [*self.rows[b]]

    def end(self, a: int, _: int, __: list[float]) -> None:
        self.cache.keep_first(a)
        self.rows[a:] = [[] for _ in self.rows[a:]]

    def keep(self, a: int, _: int, __: list[float]) -> None:
        full = len(self.rows[a]) // PAGE_TOKENS * PAGE_TOKENS
        self.kept.append((self.cache.keep(a, full), self.rows[a][:full]))

    def fill(self, a: int, b: int, _: list[float]) -> None:
        for beginning, known in self.kept[b : b + 1]:
            beginning.fill(a, len(known))
            self.rows[a] = [*known]

    def drop(self, _: int, b: int, __: list[float]) -> None:
        for beginning, _known in self.kept[b : b + 1]:
            beginning.drop()
        del self.kept[b : b + 1]

    def check(self) -> None:
        self.cache.grow([len(row) for row in self.rows])
        for slot, row in enumerate(self.rows):
            assert read(self.cache, slot, len(row)) == row
            assert not self.cache.tables[slot, pages_of(len(row)) :].any()


STEPS = st.tuples(
    st.sampled_from(["extend", "rewrite", "move", "swap", "share", "end", "keep", "fill", "drop"]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(1, 200),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, min_size=4, max_size=20))
def test_rows_of_any_fate_hold_what_they_wrote(steps: list[tuple[str, int, int, int]]) -> None:
    played = Played()
    for count, (step, a, b, length) in enumerate(steps, 1):
        with suppress(OutOfPages):
            getattr(played, step)(a, b, numbers(length, 1000 * count))
        played.check()
    while played.kept:
        played.drop(0, 0, [])
    played.end(0, 0, [])
    played.check()
    assert played.cache.pool.num_free == 9
    assert not played.cache.tables.any()
