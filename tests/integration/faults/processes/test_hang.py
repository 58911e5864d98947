"""What hangs for ever ends its process, so that a successor takes over."""

from pathlib import Path

import psycopg

from models.status import Status
from tests.databases import ONE_IS_ENOUGH
from tests.integration.faults.processes.stage import PATIENCE_SECONDS, Stage
from worker.heartbeat import EXIT_HUNG

NUM_LINES = 5
HANG = {"BATCHMILL_HANG_SECONDS": "5"}


@ONE_IS_ENOUGH
def test_worker_whose_step_hangs_ends_and_its_successor_takes_the_rows_back(stage: Stage) -> None:
    """F13. Its heartbeat is well, so nobody else would ever take the rows."""
    worker = stage.start_faulty(f"in_step=hold:{stage.folder / 'held'}", **HANG)
    batch_id = stage.submit_lines(NUM_LINES)

    assert worker.wait(PATIENCE_SECONDS) == EXIT_HUNG

    assert {row.status for row in stage.desk.rows(batch_id)} == {Status.IN_PROGRESS}
    stage.start_faulty(BATCHMILL_LEASE_SECONDS="3600")
    rows = stage.all_once(batch_id, NUM_LINES)
    assert {(row.attempt, row.suspicion) for row in rows} == {(2, 1)}


def test_worker_whose_heartbeat_hangs_ends(postgresql_stage: Stage, tmp_path: Path) -> None:
    """Whatever it waits for, a new process has a new connection."""
    stage = postgresql_stage
    worker = stage.start_faulty(**HANG)
    with psycopg.connect(stage.database_url) as connection:
        connection.execute("SELECT id FROM workers FOR UPDATE")
        assert worker.wait(PATIENCE_SECONDS) == EXIT_HUNG
