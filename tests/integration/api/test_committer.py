"""Group commit: many submissions in one transaction, each with its own answer."""

import asyncio
import threading
from collections.abc import Iterator, Sequence

import pytest

from api.submitting.committer import MAX_GROUP, MAX_GROUP_BYTES, MAX_WAITING_BYTES, Committer
from models.database import Database
from models.errors import DatabaseUnavailable, IdempotencyKeyReused, Overloaded
from models.idempotency import by_key
from models.store import Store
from models.submitting import Submission, Submitted
from tests.integration.store.making import new_job


class Slow(Store):
    """The real store, which counts groups; the first of them is held up until the others have gathered."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.groups: list[int] = []
        self.go_on = threading.Event()

    def submit_group(self, group: Sequence[Submission]) -> list[Submitted | IdempotencyKeyReused]:
        """Store a group."""
        self.groups.append(len(group))
        assert self.go_on.wait(10)
        return super().submit_group(group)


@pytest.fixture
def slow(database: Database) -> Iterator[Slow]:
    slow = Slow(database)
    yield slow
    slow.go_on.set()


def commit_all(store: Slow, group: Sequence[Submission], *, num_bytes: int = 100) -> list[Submitted | BaseException]:
    """Submit one, and while it is being stored the others; let go when all wait."""

    async def work() -> list[Submitted | BaseException]:
        committer = Committer(store, on_commit=lambda: None)
        tasks = [asyncio.create_task(committer.commit(submission, num_bytes)) for submission in group]
        while not store.groups:
            await asyncio.sleep(0.001)
        store.go_on.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(work())


def new_group(size: int) -> list[Submission]:
    return [Submission(new_job()) for _ in range(size)]


def test_what_comes_in_together_is_one_transaction(slow: Slow) -> None:
    group = new_group(50)

    results = commit_all(slow, group)

    assert results == [Submitted(submission.job.id, replayed=False) for submission in group]
    assert slow.groups == [50]
    assert sum(slow.queue_depth().values()) == 50


def test_groups_are_bounded_by_number(slow: Slow) -> None:
    commit_all(slow, new_group(MAX_GROUP + 10))

    assert slow.groups == [MAX_GROUP, 10]


def test_groups_are_bounded_by_bytes(slow: Slow) -> None:
    commit_all(slow, new_group(5), num_bytes=MAX_GROUP_BYTES // 2)

    assert slow.groups == [2, 2, 1]


def test_body_beyond_the_bound_goes_alone(slow: Slow) -> None:
    commit_all(slow, new_group(2), num_bytes=MAX_GROUP_BYTES + 1)

    assert slow.groups == [1, 1]


def test_more_than_can_wait_is_refused(slow: Slow) -> None:
    results = commit_all(slow, new_group(5), num_bytes=MAX_WAITING_BYTES // 4)

    assert [type(result) for result in results] == [Submitted] * 4 + [Overloaded]


def test_refused_key_fails_alone(slow: Slow) -> None:
    group = [Submission(new_job(), by_key("k", "/v1/completions", hash)) for hash in (b"1", b"2", b"1")]

    first, second, third = commit_all(slow, [*group])

    assert first == Submitted(group[0].job.id, replayed=False)
    assert isinstance(second, IdempotencyKeyReused)
    assert third == Submitted(group[0].job.id, replayed=True)


def test_row_the_database_refuses_fails_alone(slow: Slow) -> None:
    """A bug's row (no request gets so far): its neighbours never notice."""
    group = [*new_group(2), Submission(new_job(priority=10)), *new_group(2)]

    results = commit_all(slow, group)

    assert [isinstance(result, Submitted) for result in results] == [True, True, False, True, True]
    assert sum(slow.queue_depth().values()) == 4


def test_database_that_is_away_is_told_to_all_and_the_next_group_is_tried() -> None:
    away = Slow(Database("postgresql://nobody@127.0.0.1:1/none"))
    away.go_on.set()

    async def work() -> list[object]:
        committer = Committer(away, on_commit=lambda: None)
        tasks = [committer.commit(submission, 1) for submission in new_group(3)]
        results: list[object] = [*await asyncio.gather(*tasks, return_exceptions=True)]
        return [*results, *await asyncio.gather(committer.commit(new_group(1)[0], 1), return_exceptions=True)]

    results = asyncio.run(work())

    assert [type(result) for result in results] == [DatabaseUnavailable] * 4
    assert away.groups == [3, 1]
    away.database.dispose()


def test_who_gives_up_waiting_does_not_stop_the_others(slow: Slow) -> None:
    async def work() -> Submitted:
        committer = Committer(slow, on_commit=lambda: None)
        gone, kept = (asyncio.create_task(committer.commit(submission, 1)) for submission in new_group(2))
        while not slow.groups:
            await asyncio.sleep(0.001)
        gone.cancel()
        slow.go_on.set()
        return await kept

    assert not asyncio.run(work()).replayed
    assert sum(slow.queue_depth().values()) == 2


@pytest.mark.parametrize(("slow_seconds", "groups"), [(0.0, [1]), (3600.0, [1, 4])])
def test_who_waits_behind_a_failure_that_took_long_is_told_of_it(
    monkeypatch: pytest.MonkeyPatch, slow_seconds: float, groups: list[int]
) -> None:
    """Each group of those that gathered while the database was silent would find that out anew, 3 s at a time."""
    monkeypatch.setattr("api.submitting.committer.SLOW_SECONDS", slow_seconds)
    away = Slow(Database("postgresql://nobody@127.0.0.1:1/none"))

    first, *others = new_group(5)

    async def work() -> list[object]:
        committer = Committer(away, on_commit=lambda: None)
        tasks = [asyncio.create_task(committer.commit(first, 1))]
        while not away.groups:
            await asyncio.sleep(0.001)
        tasks += [asyncio.create_task(committer.commit(other, 1)) for other in others]
        await asyncio.sleep(0)  # they wait by now
        away.go_on.set()
        return [*await asyncio.gather(*tasks, return_exceptions=True)]

    assert [type(result) for result in asyncio.run(work())] == [DatabaseUnavailable] * 5
    assert away.groups == groups
    away.database.dispose()
