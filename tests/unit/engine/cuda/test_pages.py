"""Pages are taken, shared and given back; hypothesis plays their users."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.cuda.pages import OutOfPages, PagePool, pages_of

STEPS = st.tuples(st.sampled_from(["take", "share", "give back"]), st.integers(0, 9))


@given(st.lists(STEPS, max_size=30))
def test_a_page_is_free_exactly_when_nobody_uses_it(steps: list[tuple[str, int]]) -> None:
    pool, users = PagePool(8), list[list[int]]()
    for step, number in steps:
        if step == "take" and number > pool.num_free:
            with pytest.raises(OutOfPages):
                pool.take(number)
        elif step == "take":
            users.append(pool.take(number))
        elif users and step == "share":
            users.append(users[number % len(users)])
            pool.share(users[-1])
        elif users:
            pool.give_back(users.pop(number % len(users)))
        used = [page for pages in users for page in pages]
        assert 0 not in used
        assert pool.num_free == 8 - len(set(used))
        assert {page for page in range(1, 9) if pool.is_shared(page)} == {page for page in used if used.count(page) > 1}


def test_what_is_free_is_neither_shared_nor_given_back() -> None:
    pool = PagePool(2)
    [page] = pool.take(1)
    pool.give_back([page])
    for step in (pool.share, pool.give_back):
        with pytest.raises(ValueError, match=f"page {page} is free"):
            step([page])


@pytest.mark.parametrize(("num_tokens", "pages"), [(0, 0), (1, 1), (64, 1), (65, 2)])
def test_tokens_take_whole_pages(num_tokens: int, pages: int) -> None:
    assert pages_of(num_tokens) == pages
