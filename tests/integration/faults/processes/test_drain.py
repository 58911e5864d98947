"""Workers that are told to stop while they decode."""

import signal
import subprocess
import time
from collections import Counter
from uuid import UUID

import pytest

from models.records import JobRecord
from models.status import Status
from tests.databases import ONE_IS_ENOUGH
from tests.integration.faults.processes.stage import PATIENCE_SECONDS, Stage
from tests.waiting import wait_until

ENDLESS = 1_000_000  # tokens
HELD_FOR_EACH_ROW = 3  # rows decoding, staged behind them, and claimed with the last message


def rows_of(stage: Stage, batch_id: UUID) -> list[JobRecord]:
    return list(stage.desk.rows(batch_id))


def has_exited_well(worker: "subprocess.Popen[bytes]") -> bool:
    return worker.wait(PATIENCE_SECONDS) == 0


@ONE_IS_ENOUGH
@pytest.mark.parametrize("told_by", ["signal", "service"])
def test_sigterm_commits_what_runs_and_gives_back_the_rest(stage: Stage, told_by: str) -> None:
    """F6. A worker that is told to drain over HTTP does the same."""
    worker = stage.start_slow(0.05, BATCHMILL_ROWS="4")
    batch_id = stage.submit_lines(60, max_tokens=20)
    wait_until(lambda: stage.desk.read(batch_id).num_completed, PATIENCE_SECONDS)
    before = stage.desk.read(batch_id).num_completed

    if told_by == "signal":
        worker.send_signal(signal.SIGTERM)
    else:
        stage.store.drain_worker(stage.store.workers()[0].id)

    assert has_exited_well(worker)
    assert stage.store.workers() == []
    rows = rows_of(stage, batch_id)
    assert {row.status for row in rows} == {Status.COMPLETED, Status.QUEUED}
    assert Counter(row.status for row in rows)[Status.COMPLETED] > before  # four were being decoded
    assert {row.suspicion for row in rows} == {0}
    stage.start_faulty()
    again = stage.all_once(batch_id, 60)
    assert {row.attempt for row in again if row.line in {row.line for row in rows if row.status == "completed"}} == {1}


def test_grace_that_is_over_gives_everything_back(stage: Stage) -> None:
    """F7."""
    worker = stage.start_slow(0.05, BATCHMILL_ROWS="4", BATCHMILL_GRACE_SECONDS="0.2")
    batch_id = stage.submit_lines(8, max_tokens=ENDLESS)
    wait_until(lambda: in_progress(stage, batch_id), PATIENCE_SECONDS)

    worker.send_signal(signal.SIGTERM)

    assert has_exited_well(worker)
    assert_all_given_back(stage, batch_id)


def test_second_sigterm_gives_everything_back_at_once(stage: Stage) -> None:
    """F7. The grace time is an hour, and the rows would take a day."""
    worker = stage.start_slow(0.05, BATCHMILL_ROWS="4", BATCHMILL_GRACE_SECONDS="3600")
    batch_id = stage.submit_lines(8, max_tokens=ENDLESS)
    wait_until(lambda: in_progress(stage, batch_id), PATIENCE_SECONDS)
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: in_progress(stage, batch_id) <= 4, PATIENCE_SECONDS)  # what had not begun is given back

    time.sleep(1.1)  # of two at once the second says nothing new
    worker.send_signal(signal.SIGTERM)

    assert has_exited_well(worker)
    assert_all_given_back(stage, batch_id)


def in_progress(stage: Stage, batch_id: UUID) -> int:
    return Counter(row.status for row in rows_of(stage, batch_id))[Status.IN_PROGRESS]


def assert_all_given_back(stage: Stage, batch_id: UUID) -> None:
    assert stage.store.workers() == []
    assert {(row.status, row.suspicion) for row in rows_of(stage, batch_id)} == {(Status.QUEUED, 0)}


@ONE_IS_ENOUGH
def test_rolling_restart_fails_nothing_and_repeats_nothing_that_ran(stage: Stage) -> None:
    """Each of three workers is replaced in turn while they work. What they had not begun is claimed once more."""
    workers = [stage.start_slow(0.02, BATCHMILL_ROWS="8") for _ in range(3)]
    batch_id = stage.submit_lines(1500, max_tokens=20)
    wait_until(lambda: stage.desk.read(batch_id).num_completed >= 24, PATIENCE_SECONDS)

    for worker in workers:
        worker.send_signal(signal.SIGTERM)
        assert has_exited_well(worker)
        assert stage.desk.read(batch_id).num_unfinished, "the load was over before the workers were replaced"
        stage.start_slow(0.02, BATCHMILL_ROWS="8")

    rows = stage.all_once(batch_id, 1500)
    assert {row.suspicion for row in rows} == {0}
    assert sum(row.attempt - 1 for row in rows) <= 3 * 8 * HELD_FOR_EACH_ROW
