"""Dead letters are listed by whose they are and when they failed, and replayed once, on both databases."""

import threading
from dataclasses import replace
from uuid import UUID

import pytest
from sqlalchemy import text

from models.batch_store import BatchStore
from models.claims import Claims
from models.database import Database
from models.dead_letters import DeadLetterFilter, DeadLetters, count_waiting
from models.errors import NotFound, RequestError
from models.faults import OUR_FAULTS
from models.ids import uuid7
from models.records import JobRecord, NewJob
from models.status import Status
from models.store import Store
from models.suspects import Level
from tests.integration.store.making import completed, failed, lines, new_job, new_jobs, new_worker, whole_batch
from tests.integration.store.test_listing_plans import Plans, plans

__all__ = ["plans"]

EVERY = DeadLetterFilter()
CODE = "worker_crashed"


@pytest.fixture
def letters(database: Database) -> DeadLetters:
    return DeadLetters(database)


@pytest.fixture
def fail(store: Store, claims: Claims) -> "Failing":
    return Failing(store, claims)


class Failing:
    """Makes jobs that end as dead letters."""

    def __init__(self, store: Store, claims: Claims) -> None:
        self.store, self.claims = store, claims
        self.worker = new_worker(claims)

    def job(self, *, code: str = CODE, **changes: object) -> UUID:
        """The id of one that failed with a code."""
        job = new_job(**changes)
        self.store.submit([job])
        return self.stored(job.id, code=code)

    def stored(self, job_id: UUID, *, code: str = CODE) -> UUID:
        """Have a stored job fail."""
        [claimed] = self.claims.claim(self.worker, [job_id])
        self.claims.commit(self.worker, [failed(claimed, code)])
        return job_id


def again(job: JobRecord) -> NewJob:
    return NewJob(
        uuid7(), job.model, job.endpoint, job.body, tenant=job.tenant, suspicion=job.suspicion, level=job.level
    )


def ids_of(
    letters: DeadLetters, tenant: str | None = "default", wanted: DeadLetterFilter = EVERY, *, size: int = 100
) -> list[UUID]:
    """The ids of every page."""
    found: list[JobRecord] = []
    has_more = True
    while has_more:
        page, has_more = letters.page(tenant, wanted, after=found[-1].id if found else None, limit=size)
        found += page
    return [job.id for job in found]


@pytest.mark.parametrize("code", sorted(OUR_FAULTS))
def test_job_that_failed_by_our_fault_is_a_dead_letter(letters: DeadLetters, fail: Failing, code: str) -> None:
    job_id = fail.job(code=code)

    [letter], has_more = letters.page("default", EVERY, after=None, limit=1)

    assert (letter.id, letter.status, letter.attempt, has_more) == (job_id, Status.FAILED, 1, False)
    assert letter.error is not None
    assert letter.error.code == code
    assert letter.body == {}
    assert letters.find(job_id, "default") == letter


def test_other_ends_are_none(letters: DeadLetters, fail: Failing, store: Store, claims: Claims) -> None:
    own_fault = fail.job(code="context_length_exceeded")
    job, cancelled, queued = new_jobs(3)
    store.submit([job, cancelled, queued])
    store.cancel(cancelled.id)
    [claimed] = claims.claim(fail.worker, [job.id])
    claims.commit(fail.worker, [completed(claimed)])

    assert ids_of(letters) == []
    for id in (own_fault, job.id, cancelled.id, queued.id, uuid7()):
        assert letters.find(id, "default") is None
        with pytest.raises(NotFound):
            letters.replay(id, "default", again)


def test_last_to_fail_comes_first_page_by_page(letters: DeadLetters, fail: Failing, store: Store) -> None:
    jobs = new_jobs(7)
    store.submit(jobs)
    failed_in_turn = [fail.stored(job.id) for job in reversed(jobs)]

    for size in (1, 2, 3, 7, 8):
        assert ids_of(letters, size=size) == failed_in_turn[::-1]


def test_those_that_failed_together_are_each_listed_once(
    letters: DeadLetters, fail: Failing, store: Store, claims: Claims
) -> None:
    jobs = new_jobs(5)
    store.submit(jobs)
    claims.commit(fail.worker, [failed(job, CODE) for job in claims.claim(fail.worker, [job.id for job in jobs])])

    assert sorted(ids_of(letters, size=2)) == sorted(job.id for job in jobs)


def test_list_is_the_tenants_or_everyones(letters: DeadLetters, fail: Failing) -> None:
    mine, others = fail.job(tenant="a"), fail.job(tenant="b")

    assert (ids_of(letters, "a"), ids_of(letters, "b"), ids_of(letters, "c")) == ([mine], [others], [])
    assert ids_of(letters, None) == [others, mine]
    assert letters.find(mine, "b") is None
    assert letters.find(mine, None) is not None


def test_cursor_and_replay_of_another_tenant_are_refused(letters: DeadLetters, fail: Failing, store: Store) -> None:
    job_id = fail.job(tenant="a")

    with pytest.raises(RequestError) as refused:
        letters.page("b", EVERY, after=job_id, limit=1)
    with pytest.raises(NotFound):
        letters.replay(job_id, "b", again)

    assert refused.value.error_code == "invalid_cursor"
    assert store.queue_depth() == {}


def test_list_is_narrowed(letters: DeadLetters, fail: Failing, batches: BatchStore) -> None:
    first, second = fail.job(model="x"), fail.job(code="out_of_memory")
    rows = lines(2)
    batch_id = whole_batch(batches, rows)
    row = fail.stored(rows[0].id)
    replay = letters.replay(first, "default", again)

    for wanted, ids in (
        (DeadLetterFilter(model="x"), [first]),
        (DeadLetterFilter(error_code="out_of_memory"), [second]),
        (DeadLetterFilter(batch_id=batch_id), [row]),
        (DeadLetterFilter(is_replayed=True), [first]),
        (DeadLetterFilter(is_replayed=False), [row, second]),
        (DeadLetterFilter(model="x", is_replayed=False), []),
    ):
        assert ids_of(letters, wanted=wanted) == ids
    [letter], _ = letters.page("default", DeadLetterFilter(is_replayed=True), after=None, limit=1)
    assert letter.replayed_as == replay.id


def test_replay_is_a_new_job_as_suspect_as_the_first(
    letters: DeadLetters, fail: Failing, store: Store, database: Database
) -> None:
    job_id = fail.job(body={"prompt": "secret"}, tenant="a")
    with database.transaction() as connection:
        connection.execute(text("UPDATE jobs SET suspicion = 2, solo_crashes = 2"))
    before = store.job(job_id)

    submitted = letters.replay(job_id, "a", again)

    job = store.job(submitted.id, "a")
    assert job is not None
    assert before is not None
    assert (job.status, job.body, job.suspicion, job.solo_crashes) == (Status.QUEUED, {"prompt": "secret"}, 2, 0)
    assert (job.attempt, submitted.replayed) == (0, False)
    assert store.job(job_id) == replace(before, replayed_as=job.id)


def test_replay_of_what_crashed_workers_meets_no_other_job(
    letters: DeadLetters, fail: Failing, store: Store, claims: Claims, database: Database
) -> None:
    job_id = fail.job()
    with database.transaction() as connection:
        connection.execute(text("UPDATE jobs SET suspicion = 4, level = 3, solo_crashes = 2"))
    replay = letters.replay(job_id, "default", again).id
    innocent = new_job()
    store.submit([innocent])

    together = claims.claim(fail.worker, [replay, innocent.id])

    assert [job.id for job in together] == [innocent.id]
    assert claims.suspects("demo") == (Level.ALONE, [replay])


def test_replay_twice_is_one_job(letters: DeadLetters, fail: Failing, store: Store, claims: Claims) -> None:
    job_id = fail.job()
    first = letters.replay(job_id, "default", again)

    for _ in range(2):
        assert letters.replay(job_id, "default", again) == (first.id, True)
    [claimed] = claims.claim(fail.worker, [first.id])
    assert letters.replay(job_id, "default", again) == (first.id, True)
    claims.commit(fail.worker, [completed(claimed)])
    assert letters.replay(job_id, None, again) == (first.id, True)
    assert store.queue_depth() == {}


def test_replay_that_became_a_dead_letter_is_replayed_in_its_turn(
    letters: DeadLetters, fail: Failing, store: Store
) -> None:
    job_id = fail.job()
    second = fail.stored(letters.replay(job_id, "default", again).id)

    third = letters.replay(job_id, "default", again)

    assert not third.replayed
    assert letters.replay(second, "default", again) == letters.replay(job_id, "default", again) == (third.id, True)
    assert store.queue_depth() == {"demo": 1}
    assert ids_of(letters, wanted=DeadLetterFilter(is_replayed=False)) == []


def test_replay_that_was_deleted_is_made_anew(letters: DeadLetters, fail: Failing, store: Store) -> None:
    job_id = fail.job()
    first = letters.replay(job_id, "default", again)
    store.cancel(first.id)
    store.delete(first.id)

    second = letters.replay(job_id, "default", again)

    assert (second.replayed, second.id != first.id) == (False, True)


def test_many_who_replay_at_once_get_one_job(letters: DeadLetters, fail: Failing, store: Store) -> None:
    job_id = fail.job()
    found: list[tuple[UUID, bool]] = []
    threads = [
        threading.Thread(target=lambda: found.append(letters.replay(job_id, "default", again))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({id for id, _ in found}) == 1
    assert sorted(replayed for _, replayed in found) == [False, *[True] * 5]
    assert store.queue_depth() == {"demo": 1}


def test_those_nobody_replayed_are_counted(letters: DeadLetters, fail: Failing, database: Database) -> None:
    fail.job(code="out_of_memory", tenant="a")
    for _ in range(2):
        fail.job(tenant="b")
    letters.replay(fail.job(), "default", again)

    with database.read() as connection:
        assert count_waiting(connection) == {"out_of_memory": 1, CODE: 2}


@pytest.fixture
def many(store: Store, fail: Failing, database: Database) -> UUID:
    """A dead letter among many of another tenant, and jobs that are none."""
    others = new_jobs(300, tenant="other")
    store.submit([*new_jobs(500), *others])
    with database.transaction() as connection:
        connection.execute(
            text(
                f"UPDATE jobs SET status = 'failed', error_code = '{CODE}', finished_at = created_at"
                " WHERE tenant = 'other'"
            )
        )
    job_id = [fail.job() for _ in range(3)][1]
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
    return job_id


@pytest.mark.parametrize("tenant", ["default", None])
def test_a_page_walks_the_dead_letters_alone(
    letters: DeadLetters, many: UUID, tenant: str | None, plans: Plans
) -> None:
    for wanted in (EVERY, DeadLetterFilter(model="x", is_replayed=False)):
        for after in (None, many):
            letters.page(tenant, wanted, after=after, limit=20)

    index = "jobs_dead_letters_of_all" if tenant is None else "jobs_dead_letters"
    walks = [line for line in plans.lines if f"{index} " in line or f"{index}'" in line]
    assert len(walks) == 4
    assert not [line for line in plans.lines if "Sort" in line or "TEMP B-TREE" in line]
    assert [line for line in plans.scans() if line not in walks] == []


def test_a_dead_letter_is_found_by_its_key(letters: DeadLetters, many: UUID, plans: Plans) -> None:
    letters.find(many, "default")
    letters.find(many, None)

    assert sum("jobs_pkey" in line or "autoindex_jobs_1" in line for line in plans.lines) == 2


def test_counting_walks_the_dead_letters_alone(many: UUID, database: Database, plans: Plans) -> None:
    with database.read() as connection:
        assert count_waiting(connection) == {CODE: 303}

    walks = [line for line in plans.lines if "jobs_dead_letters" in line]
    assert walks
    assert [line for line in plans.scans() if line not in walks] == []
