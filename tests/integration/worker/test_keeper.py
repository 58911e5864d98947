"""What the keeper looks at between two beats."""

from typing import Any

import pytest
from sqlalchemy import event, text

from models.claims import Claims
from models.database import Database
from models.status import Status
from tests.integration.store.making import new_worker
from tests.integration.worker.workbench import Workbench
from tests.waiting import wait_until
from worker import heartbeat
from worker.engine.types import Output
from worker.noop_engine import NoopEngine


class EndlessEngine(NoopEngine):
    """Its rows run until they are cancelled."""

    def step(self) -> list[Output]:
        return []


def test_cancelled_row_ends_without_waiting_for_a_beat(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A beat may be 1.5 s away, and a slot is dear; here no beat ever comes."""
    monkeypatch.setattr(heartbeat, "MAX_BEAT_SECONDS", 3600.0)
    with Workbench(database, EndlessEngine(rows=4)) as bench:
        cancelled, other = bench.submit({"prompt": "a"}, {"prompt": "b"})
        wait_until(lambda: bench.engine.num_live == 2)
        assert bench.store.cancel(cancelled) is Status.IN_PROGRESS
        assert bench.result(cancelled).status is Status.CANCELLED
        assert bench.store.statuses([other]) == {other: Status.IN_PROGRESS}
        assert bench.engine.num_live == 1


def test_rows_to_stop_are_found_by_index(database: Database, claims: Claims) -> None:
    """It is asked for twice a second by every worker, beside whatever number of rows others hold and have ended."""
    statements: list[tuple[str, Any]] = []

    def note(connection: object, cursor: object, statement: str, parameters: Any, *_: object) -> None:  # noqa: ANN401
        statements.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    claims.to_stop(new_worker(claims))
    event.remove(database.engine, "before_cursor_execute", note)
    statement, parameters = statements[-1]
    explain = "EXPLAIN " if database.dialect == "postgresql" else "EXPLAIN QUERY PLAN "
    with database.engine.begin() as connection:
        if database.dialect == "postgresql":  # a planner reads an almost empty table whole
            connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = str(connection.exec_driver_sql(explain + statement, parameters).all())
    assert "jobs_owner" in plan
