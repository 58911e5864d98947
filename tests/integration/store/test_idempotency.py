"""Keys of many requests in one transaction, on both databases."""

import threading

import pytest
from sqlalchemy import update

from models import idempotency as idempotency_keys
from models.claims import Claims
from models.columns import from_now
from models.database import Database
from models.errors import IdempotencyKeyReused
from models.idempotency import KEPT_SECONDS, RETRY_SECONDS, Keyed, Once, by_key, by_retry_count, remember
from models.ids import uuid7
from models.records import NewBatch
from models.store import Store
from models.submitting import Submission, Submitted
from models.tables import idempotency
from tests.integration.store.making import completed, new_job, new_worker

PATH = "/v1/completions"


def key(name: str = "k", body_hash: bytes = b"1") -> Once:
    return by_key(name, PATH, body_hash)


def first_try(body_hash: bytes = b"1") -> Once:
    return by_retry_count(PATH, body_hash, retry_count=0)


def retry(body_hash: bytes = b"1") -> Once:
    return by_retry_count(PATH, body_hash, retry_count=1)


def submit(store: Store, *once: Once | None, tenant: str = "default") -> list[Submitted | IdempotencyKeyReused]:
    """Submit a new job under each key, all in one transaction."""
    return store.submit_group([Submission(new_job(tenant=tenant), entry) for entry in once])


def one(store: Store, once: Once) -> Submitted:
    [result] = submit(store, once)
    assert isinstance(result, Submitted)
    return result


def grow_old(database: Database, seconds: float) -> None:
    """Make every key older."""
    with database.transaction() as connection:
        connection.execute(update(idempotency).values(created_at=from_now(-seconds)))


def test_group_settles_each_for_itself(store: Store) -> None:
    held = one(store, key("held"))

    results = submit(store, None, key("held"), key("held", b"2"), key("new"), key("new"), key("new", b"2"), None)

    plain, again, reused, new, same, other, last = results
    assert again == Submitted(held.id, replayed=True)
    assert isinstance(reused, IdempotencyKeyReused)
    assert isinstance(other, IdempotencyKeyReused)
    assert isinstance(new, Submitted)
    assert same == Submitted(new.id, replayed=True)
    stored = [result.id for result in (plain, new, last) if isinstance(result, Submitted) and not result.replayed]
    assert len(store.statuses(stored)) == len(set(stored)) == 3
    assert sum(store.queue_depth().values()) == 4


def test_key_is_forgotten_after_a_day(store: Store, database: Database) -> None:
    first = one(store, key())
    grow_old(database, KEPT_SECONDS - 60)
    assert one(store, key()) == Submitted(first.id, replayed=True)
    grow_old(database, KEPT_SECONDS + 1)

    second = one(store, key(body_hash=b"2"))

    assert not second.replayed
    assert one(store, key(body_hash=b"2")) == Submitted(second.id, replayed=True)


def test_retry_finds_what_its_first_try_stored(store: Store) -> None:
    first = one(store, first_try())

    assert one(store, retry()) == Submitted(first.id, replayed=True)
    assert not one(store, retry(b"2")).replayed


def test_retry_of_a_try_that_never_arrived_is_stored_and_found_by_the_next(store: Store) -> None:
    second = one(store, retry())

    assert not second.replayed
    assert one(store, retry()) == Submitted(second.id, replayed=True)


def test_equal_first_tries_are_all_stored_and_the_latest_is_found(store: Store) -> None:
    one(store, first_try())
    results = submit(store, first_try(), first_try(), retry())

    assert [isinstance(result, Submitted) and result.replayed for result in results] == [False, False, True]
    assert isinstance(results[1], Submitted)
    assert results[2] == Submitted(results[1].id, replayed=True)
    assert sum(store.queue_depth().values()) == 3


def test_retry_is_not_guessed_at_for_long(store: Store, database: Database) -> None:
    one(store, first_try())
    grow_old(database, RETRY_SECONDS + 1)

    assert not one(store, retry()).replayed


@pytest.mark.parametrize("runs", [False, True])
def test_retry_does_not_find_what_was_cancelled(store: Store, claims: Claims, runs: bool) -> None:
    first = one(store, first_try())
    if runs:
        claims.claim(new_worker(claims), [first.id])
    store.cancel(first.id)

    second = one(store, retry())

    assert not second.replayed
    assert one(store, retry()) == Submitted(second.id, replayed=True)


def test_retry_finds_what_is_completed(store: Store, claims: Claims) -> None:
    first = one(store, first_try())
    worker_id = new_worker(claims)
    claims.commit(worker_id, [completed(job) for job in claims.claim(worker_id, [first.id])])

    assert one(store, retry()) == Submitted(first.id, replayed=True)


def test_retry_finds_its_own_tenants_job_alone(store: Store) -> None:
    one(store, first_try())

    [other] = submit(store, retry(), tenant="other")

    assert isinstance(other, Submitted)
    assert not other.replayed


def forgotten(database: Database) -> int:
    """How many keys go now."""
    return database.write(lambda connection: idempotency_keys.forget(connection, 10))


def test_keys_are_deleted_when_their_time_is_over(store: Store, database: Database) -> None:
    submit(store, key("k"), first_try())
    assert forgotten(database) == 0
    grow_old(database, RETRY_SECONDS + 1)
    assert forgotten(database) == 1
    assert one(store, key("k")).replayed
    grow_old(database, KEPT_SECONDS + 1)
    submit(store, key("new"))

    assert [forgotten(database), forgotten(database)] == [1, 0]
    assert one(store, key("new")).replayed


def test_users_cannot_send_the_key_of_a_retry() -> None:
    assert not first_try().key.isprintable()
    assert first_try().is_hidden
    assert not key().is_hidden


def test_batches_are_remembered_as_well(database: Database) -> None:
    first, second = (NewBatch(uuid7(), PATH) for _ in range(2))

    with database.transaction() as connection:
        assert remember(connection, [Keyed(first, key())]) == [None]
    with database.transaction() as connection:
        assert remember(connection, [Keyed(second, key())]) == [first.id]


def test_many_at_once_with_few_keys_store_each_key_once(store: Store) -> None:
    """Groups that hold the same keys in different orders wait for one another, and none is lost."""
    results: list[Submitted | IdempotencyKeyReused] = []

    def work(order: int) -> None:
        names = [f"k{number}" for number in range(20)][::order]
        results.extend(submit(store, *[key(name) for name in names]))

    threads = [threading.Thread(target=work, args=(order,)) for order in (1, -1) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = [result for result in results if isinstance(result, Submitted)]
    assert len(found) == 160
    assert len({result.id for result in found}) == 20
    assert sum(not result.replayed for result in found) == 20
