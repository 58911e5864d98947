"""What waits and what was spent, on both databases."""

from datetime import UTC, datetime, timedelta

import pytest

from models import usage
from models.batch_store import BatchStore
from models.claims import Claims
from models.database import Database
from models.errors import RequestError
from models.overview import Overview
from models.records import Outcome
from models.status import Status
from models.store import Store
from models.usage import Usage
from tests.integration.store.making import choice, completed, failed, lines, new_job, new_jobs, new_worker, whole_batch

NOW = datetime.now(UTC)
START, END = NOW - timedelta(hours=1), NOW + timedelta(hours=1)


@pytest.fixture
def overview(database: Database) -> Overview:
    return Overview(database)


def test_load_counts_what_is_queued_announced_or_not(overview: Overview, store: Store, claims: Claims) -> None:
    store.submit([*new_jobs(3, tenant="a", priority=2), *new_jobs(2, tenant="a", priority=7), new_job(tenant="b")])
    announced = store.take_unpublished(2)
    claims.claim(new_worker(claims), [announced[0].id])

    load = overview.load()

    counted = [(group.tenant, group.priority, group.num_jobs) for group in load.waiting]
    assert sorted(counted) == [("a", 2, 3), ("a", 7, 1), ("b", 4, 1)]
    assert [worker.model for worker in load.workers] == ["demo"]


def test_age_is_that_of_the_oldest_waiting_job(overview: Overview, store: Store, database: Database) -> None:
    store.submit([new_job(), new_job()])
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE jobs SET created_at = created_at - " + hour(database) + " WHERE TRUE")
    store.submit([new_job(model="other")])

    load = overview.load()

    ages = {group.model: load.age_seconds([group]) for group in load.waiting}
    assert ages["demo"] == pytest.approx(3600, abs=60)
    assert ages["other"] == pytest.approx(0, abs=60)
    assert load.age_seconds(load.waiting) == ages["demo"]
    assert load.age_seconds([]) is None


def hour(database: Database) -> str:
    return "interval '1 hour'" if database.dialect == "postgresql" else "3600"


def test_batches_are_counted_by_status(overview: Overview, batches: BatchStore) -> None:
    whole_batch(batches, lines(2))
    batches.cancel(whole_batch(batches, lines(2)))

    assert overview.load().batches_by_status == {"in_progress": 1, "cancelled": 1}


def test_usage_sums_up_single_jobs_and_batches(
    overview: Overview, store: Store, claims: Claims, batches: BatchStore
) -> None:
    store.submit(new_jobs(4, tenant="a"))
    whole_batch(batches, lines(3, tenant="a"), tenant="a")
    store.submit(new_jobs(2, tenant="b"))
    worker = new_worker(claims)
    mine = [job for job in claims.claim(worker, [hint.id for hint in store.take_unpublished(100)]) if job.tenant == "a"]
    single = [job for job in mine if job.body.get("prompt") and store.jobs([job.id])[0].batch_id is None]
    rows = [job for job in mine if job not in single]
    claims.commit(worker, [*map(completed, single[:2]), failed(single[2]), *map(completed, rows[:2])])

    spent = overview.usage("a", START, END)

    assert spent == Usage(
        by_status={Status.COMPLETED: 4, Status.FAILED: 1, Status.CANCELLED: 0, Status.EXPIRED: 0},
        num_unfinished=2,
        num_batches=1,
        prompt_tokens=4 * 3,
        output_tokens=4 * 2,
    )


def test_usage_is_of_jobs_accepted_in_the_time(overview: Overview, store: Store, batches: BatchStore) -> None:
    store.submit(new_jobs(1))
    whole_batch(batches, lines(1))

    before, after = overview.usage("default", START, START), overview.usage("default", END, END + timedelta(days=1))

    assert before == after == Usage(dict.fromkeys(before.by_status, 0), 0, 0, 0, 0)
    assert overview.usage("default", START, END).num_unfinished == 2


@pytest.mark.parametrize(
    ("body", "prompt_tokens"),
    [
        ({"prompt": "one", "n": 4}, 3),
        ({"prompt": [5, 6, 7], "n": 4}, 3),
        ({"prompt": ["one", "two"], "n": 2}, 3 + 5),
        ({"prompt": [[5, 6], [7], [8], [9]]}, 3 + 4 + 5 + 6),
    ],
)
def test_usage_counts_each_prompt_once(
    overview: Overview, store: Store, claims: Claims, body: dict[str, object], prompt_tokens: int
) -> None:
    """Every choice tells its own prompt's tokens, and a prompt has `n` choices."""
    job = new_job(body=body)
    store.submit([job])
    worker = new_worker(claims)
    [claimed] = claims.claim(worker, [job.id])
    choices = tuple(choice(choice_index=index, prompt_tokens=3 + index) for index in range(4))
    claims.commit(worker, [Outcome(claimed.id, claimed.attempt, Status.COMPLETED, choices)])

    spent = overview.usage("default", START, END)

    assert (spent.prompt_tokens, spent.output_tokens) == (prompt_tokens, 8)


def test_usage_of_too_many_jobs_is_refused(
    overview: Overview, store: Store, claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "MAX_SINGLE_JOBS", 1)
    store.submit(new_jobs(2))
    worker = new_worker(claims)
    held = claims.claim(worker, [hint.id for hint in store.take_unpublished(10)])
    claims.commit(worker, [completed(job) for job in held])

    with pytest.raises(RequestError, match="a shorter one") as refused:
        overview.usage("default", START, END)

    assert (refused.value.error_code, refused.value.param) == ("invalid_value", "start_time")
