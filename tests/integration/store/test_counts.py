"""After any sequence of operations the counts of a batch equal its rows, on both databases."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.batch_store import BatchStore
from models.claims import Claims
from models.database import Database
from models.errors import BatchClosed
from models.ids import uuid7
from models.records import ClaimedJob, Outcome
from models.status import FINAL, FINAL_BATCH, BatchStatus, Status
from models.store import Store
from tests.integration.store.making import REFUSAL, SHORT, choice, completed, failed, lines, new_batch, new_worker

PAST = datetime(2020, 1, 1, tzinfo=UTC)


def expired(job: ClaimedJob) -> Outcome:
    return Outcome(job.id, job.attempt, Status.EXPIRED)


class Scene:
    """One batch, one worker slot, and what may happen to them."""

    def __init__(self, database: Database) -> None:
        self.store, self.batches = Store(database), BatchStore(database)
        self.claims = Claims(database, max_attempts=3)
        self.batch_id = new_batch(self.batches)
        self.slot = uuid7().hex
        self.num_lines = 0
        self.held: list[ClaimedJob] = []
        self.worker_id = self.enter()

    def enter(self) -> UUID:
        return new_worker(self.claims, slot=self.slot)

    def append(self) -> None:
        rows = lines(5, first=self.num_lines)
        rows[1] = replace(rows[1], error=REFUSAL)
        rows[2] = replace(rows[2], custom_id=rows[0].custom_id)
        rows[3] = replace(rows[3], deadline=PAST)
        try:
            self.batches.append(self.batch_id, rows, num_lines=self.num_lines + 5, num_bytes=0)
        except BatchClosed:
            return
        self.num_lines += 5

    def end_intake(self) -> None:
        self.batches.end_intake(self.batch_id)

    def claim(self) -> None:
        ids = [row.id for row in self.batches.results(self.batch_id) if row.status is Status.QUEUED]
        self.held += self.claims.claim(self.worker_id, ids[:3])

    def commit(self) -> None:
        kinds: list[Callable[[ClaimedJob], Outcome]] = [completed, failed, expired]
        self.claims.commit(self.worker_id, [kinds[n % 3](job) for n, job in enumerate(self.held)])

    def commit_one_with_choices(self) -> None:
        for job in self.held[:1]:
            choices = (choice(), choice(choice_index=1))
            self.claims.commit(self.worker_id, [replace(completed(job), completions=choices)])

    def release(self) -> None:
        self.claims.release(self.worker_id)

    def cancel(self) -> None:
        for row in self.batches.results(self.batch_id)[::4]:
            self.store.cancel(row.id)

    def lose(self) -> None:
        self.claims.heartbeat(self.worker_id, lease_seconds=SHORT)
        time.sleep(2 * SHORT)
        self.claims.reap()
        self.worker_id = self.enter()

    def crash(self) -> None:
        self.claims.confirm_crash(self.slot, successor=uuid7())
        self.worker_id = self.enter()

    def expire(self) -> None:
        self.claims.expire_queued(100)

    def cancel_batch(self) -> None:
        self.batches.cancel(self.batch_id)

    def fail_batch(self) -> None:
        self.batches.fail(self.batch_id, [])

    def check(self) -> None:
        batch, rows = self.batches.get(self.batch_id), self.batches.results(self.batch_id)
        assert batch is not None
        by_status = Counter(row.status for row in rows)
        assert batch.num_total == len(rows)
        assert {status: getattr(batch, f"num_{status}") for status in FINAL} == {s: by_status[s] for s in FINAL}
        assert batch.output_tokens == sum(c.output_tokens for row in rows for c in row.completions)
        assert batch.prompt_tokens == 3 * by_status[Status.COMPLETED]
        if batch.status in FINAL_BATCH - {BatchStatus.FAILED}:
            assert batch.num_unfinished == 0
        if batch.num_unfinished == 0:
            assert batch.status in FINAL_BATCH | {BatchStatus.VALIDATING}


EVERYDAY: list[Callable[[Scene], None]] = [Scene.append, Scene.claim, Scene.claim, Scene.commit]
RARE: list[Callable[[Scene], None]] = [
    Scene.commit_one_with_choices,
    Scene.end_intake,
    Scene.release,
    Scene.cancel,
    Scene.lose,
    Scene.crash,
    Scene.expire,
    Scene.cancel_batch,
    Scene.fail_batch,
]
OPERATIONS = st.sampled_from(EVERYDAY) | st.sampled_from(RARE)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=st.lists(OPERATIONS, min_size=4, max_size=14))
def test_counts_equal_rows(database: Database, operations: list[Callable[[Scene], None]]) -> None:
    scene = Scene(database)
    scene.append()
    for operation in operations:
        operation(scene)
        scene.check()
    scene.claims.deregister(scene.worker_id)
    scene.check()
