"""Rows cancelled or late while the engine is full of a long one: they end at the keeper's next look, never begun."""

import threading
import time
from uuid import UUID

import pytest
from sqlalchemy import update

from models.columns import now
from models.database import Database
from models.status import Status
from models.tables import jobs
from tests.integration.worker.workbench import Workbench
from tests.waiting import wait_until
from worker.engine.types import Output, Request
from worker.noop_engine import NoopEngine


class LongRowEngine(NoopEngine):
    """One slot, whose row goes on step by step until the test lets it end. Notes the prompts that began."""

    def __init__(self) -> None:
        super().__init__(rows=1)
        self.begun: list[object] = []
        self.may_end = threading.Event()

    def add(self, sequence: Request) -> None:
        self.begun.append(sequence.prompt)
        super().add(sequence)

    def step(self) -> list[Output]:
        if self.may_end.is_set():
            return super().step()
        time.sleep(0.001)
        return []


def stop(bench: Workbench, job_id: UUID, status: Status) -> None:
    """Ask for a running job's end."""
    if status is Status.CANCELLED:
        assert bench.store.cancel(job_id) is Status.IN_PROGRESS
        return
    with bench.store.database.transaction() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(deadline=now()))


@pytest.mark.parametrize("status", [Status.CANCELLED, Status.EXPIRED])
def test_a_staged_row_ends_without_being_begun(database: Database, status: Status) -> None:
    engine = LongRowEngine()
    with Workbench(database, engine) as bench:
        [long] = bench.submit({"prompt": "long"})
        wait_until(lambda: engine.begun)
        [staged] = bench.submit({"prompt": "staged"})
        wait_until(lambda: len(bench.staging) == 1)
        stop(bench, staged, status)
        assert bench.result(staged).status is status
        engine.may_end.set()
        assert bench.result(long).status is Status.COMPLETED
    assert engine.begun == ["long"]


@pytest.mark.parametrize("status", [Status.CANCELLED, Status.EXPIRED])
def test_a_row_being_decoded_ends_between_two_steps(database: Database, status: Status) -> None:
    engine = LongRowEngine()
    with Workbench(database, engine) as bench:
        [long] = bench.submit({"prompt": "long"})
        wait_until(lambda: engine.begun)
        stop(bench, long, status)
        assert bench.result(long).status is status  # and the engine never let it end
        assert engine.num_live == 0
