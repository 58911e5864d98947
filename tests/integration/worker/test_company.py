"""What is in the engine together while suspects wait, and in which order. The worker's threads, without processes."""

import time
from collections import Counter, deque
from uuid import UUID

import pytest

from models.database import Database
from models.ids import uuid7
from models.records import NewJob, WorkerRecord
from models.status import Status
from models.suspects import Level
from tests.integration.worker.workbench import Workbench
from worker.engine.types import Output
from worker.noop_engine import NoopEngine

ROWS = 16
STEPS, STEP_SECONDS = 8, 0.01
NAMES = [level.name for level in (Level.NONE, Level.FEW, Level.ALONE)]


class WatchedEngine(NoopEngine):
    """Takes its time for a row, longer than a claim takes, so that rows may meet; and notes who is in each step."""

    def __init__(self) -> None:
        super().__init__(rows=ROWS)
        self.steps: list[set[str]] = []
        self._num_steps: Counter[str] = Counter()

    def step(self) -> list[Output]:
        time.sleep(STEP_SECONDS)
        self.steps.append({str(request.prompt) for request in self._waiting})
        self._num_steps.update(request.id for request in self._waiting)
        later = [request for request in self._waiting if self._num_steps[request.id] < STEPS]
        self._waiting = deque(request for request in self._waiting if self._num_steps[request.id] >= STEPS)
        outputs = super().step()
        self._waiting.extend(later)
        return outputs


def suspects(bench: Workbench, number: int, level: Level) -> list[UUID]:
    """Jobs that crashes of small companies have brought there."""
    bodies = ({"prompt": f"{level.name} {position}", "seed": 0} for position in range(number))
    new = [NewJob(uuid7(), "noop", "/v1/completions", body) for body in bodies]
    bench.store.submit(new)
    ids = [job.id for job in new]
    for before in (Level.NONE, Level.FEW)[: level - 1]:
        crashed = WorkerRecord(uuid7(), "host/crashed/0", "host", 1, "noop", rows=ROWS)
        bench.claims.register(crashed, lease_seconds=60)
        assert len(bench.claims.claim(crashed.id, ids, level=before)) == number
        bench.claims.confirm_crash(crashed.slot, successor=uuid7())
    return ids


def test_suspects_meet_nobody_but_few_of_their_own(database: Database) -> None:
    """Fresh load waits all the time. Every fourth claim is for suspects, and the others go on in between."""
    engine = WatchedEngine()
    bench = Workbench(database, engine)
    ids = suspects(bench, 20, Level.FEW) + suspects(bench, 3, Level.ALONE)
    ids += bench.submit(*({"prompt": f"NONE {number}"} for number in range(280)))

    with bench:
        assert {bench.result(job_id).status for job_id in ids} == {Status.COMPLETED}

    kinds = [{prompt.split()[0] for prompt in step} for step in engine.steps]
    assert {len(kind) for kind in kinds if kind} == {1}
    sizes = {kind: max(len(step) for step in engine.steps if any(p.startswith(kind) for p in step)) for kind in NAMES}
    assert sizes == {"NONE": ROWS, "FEW": 8, "ALONE": 1}
    order = [kind.pop() for kind in kinds if kind]
    turns = [name for name, before in zip(order, [None, *order], strict=False) if name != before]
    assert turns == ["NONE", "ALONE"] * 3 + ["NONE", "FEW"] * 3 + ["NONE"]


@pytest.mark.parametrize("level", [Level.FEW, Level.ALONE])
def test_suspects_run_at_once_where_nothing_else_waits(database: Database, level: Level) -> None:
    bench = Workbench(database, WatchedEngine())
    ids = suspects(bench, 9, level)
    with bench:
        assert {bench.result(job_id).status for job_id in ids} == {Status.COMPLETED}


def test_suspects_with_lists_of_prompts_are_run_too(database: Database) -> None:
    """More requests than the engine has rows, of jobs of which none may be forgotten."""
    bench = Workbench(database, WatchedEngine())
    body = {"prompt": ["a"] * ROWS, "seed": 0}
    new = [NewJob(uuid7(), "noop", "/v1/completions", body, suspicion=1, level=Level.FEW) for _ in range(8)]
    bench.store.submit(new)
    with bench:
        results = [bench.result(job.id) for job in new]
    assert [len(job.completions) for job in results] == [ROWS] * 8
