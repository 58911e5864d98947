"""Pages are taken, shared and given back; hypothesis plays their users."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.cuda.pages import OutOfPages, PagePool, pages_of

STEPS = st.tuples(st.sampled_from(["take", "share", "give back", "keep", "let go"]), st.integers(0, 9))


@given(st.lists(STEPS, max_size=40))
def test_a_page_is_free_exactly_when_nobody_wants_it(steps: list[tuple[str, int]]) -> None:
    pool, users, keepers = PagePool(8), list[list[int]](), list[list[int]]()
    for step, number in steps:
        wanted = users + keepers
        if step == "take" and number > pool.num_free:
            with pytest.raises(OutOfPages):
                pool.take(number)
        elif step == "take":
            users.append(pool.take(number))
        elif step == "share" and wanted:
            users.append(wanted[number % len(wanted)])
            pool.share(users[-1])
        elif step == "keep" and wanted:
            keepers.append(wanted[number % len(wanted)])
            pool.keep(keepers[-1])
        elif step == "give back" and users:
            pool.give_back(users.pop(number % len(users)))
        elif step == "let go" and keepers:
            pool.let_go(keepers.pop(number % len(keepers)))
        used = [page for pages in users for page in pages]
        counts = Counter(page for pages in users + keepers for page in pages)
        assert 0 not in counts
        assert pool.num_free == 8 - len(counts)
        assert pool.num_unused == 8 - len(set(used))
        assert {page for page in range(1, 9) if pool.is_shared(page)} == {page for page in counts if counts[page] > 1}


def test_what_is_free_is_neither_shared_nor_given_back() -> None:
    pool = PagePool(2)
    [page] = pool.take(1)
    pool.give_back([page])
    for step in (pool.share, pool.give_back, pool.keep, pool.let_go):
        with pytest.raises(ValueError, match=f"page {page} is free"):
            step([page])


def test_what_is_kept_is_not_used() -> None:
    pool = PagePool(2)
    pages = pool.take(1)
    pool.keep(pages)
    pool.give_back(pages)
    with pytest.raises(ValueError, match="is free"):
        pool.give_back(pages)


@pytest.mark.parametrize(("num_tokens", "pages"), [(0, 0), (1, 1), (64, 1), (65, 2)])
def test_tokens_take_whole_pages(num_tokens: int, pages: int) -> None:
    assert pages_of(num_tokens) == pages
