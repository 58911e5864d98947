"""Finished rows that wait for the database: what memory holds, what goes to disk, and that it comes back as it was."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.ids import uuid7
from models.records import ClaimedJob, CompletionRecord, JobError, Outcome
from models.rows import completion_values, outcome_values
from models.status import Status
from tests.waiting import wait_until
from worker.backlog import Backlog, memory_bytes
from worker.deliveries import FinishedRow, Row
from worker.spill import Spill

NO_LIMIT = 1 << 40
ROOT = Path(__file__).parents[3]


def row() -> Row:
    return Row(uuid7(), ClaimedJob(uuid7(), 1, "/v1/completions", "m", {}, 4, None, 0, "default"))


def finished(text: str = "hi") -> FinishedRow:
    here = row()
    choice = CompletionRecord(0, text, (1, 2), "stop", 3, 2, logprobs=(-0.5, None))
    return FinishedRow(here, Outcome(here.job.id, here.job.attempt, Status.COMPLETED, (choice,)))


def take_all(backlog: Backlog) -> list[FinishedRow]:
    return backlog.take(limit=1000, max_bytes=NO_LIMIT, timeout_seconds=0)


def spilled_files(folder: Path) -> list[Path]:
    """Handles of the folder's files that this process has open, whether they have a name or not."""
    handles = [*Path("/proc/self/fd").iterdir()]
    return [handle for handle in handles if is_in(handle, folder)]


def is_in(handle: Path, folder: Path) -> bool:
    try:
        return str(handle.readlink()).startswith(str(folder))
    except FileNotFoundError:  # that of the listing itself
        return False


completions = st.builds(
    CompletionRecord,
    choice_index=st.integers(0, 15),
    text=st.text(st.characters(exclude_categories=()), max_size=20),
    token_ids=st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple),
    finish_reason=st.sampled_from(["stop", "length"]),
    prompt_tokens=st.integers(0, 100),
    output_tokens=st.integers(0, 100),
    logprobs=st.none() | st.lists(st.none() | st.floats(width=32, allow_nan=False), max_size=5).map(tuple),
    prompt_token_ids=st.none() | st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple),
    details=st.none() | st.dictionaries(st.text(max_size=3), st.floats() | st.text(max_size=5), max_size=3),
    seed=st.none() | st.integers(0, 2**63 - 1),
    fingerprint=st.none() | st.text("abc", max_size=3),
)
outcomes = st.builds(
    Outcome,
    id=st.builds(uuid7),
    attempt=st.integers(1, 30),
    status=st.sampled_from(Status),
    completions=st.lists(completions, max_size=3).map(tuple),
    error=st.none() | st.builds(JobError, st.text("abc_", max_size=5), st.text(max_size=5)),
    num_prompts=st.integers(1, 3),
)


@given(outcomes)
def test_spilled_outcome_is_stored_as_if_it_had_not_been(outcome: Outcome) -> None:
    spill = Spill(Path("/tmp"))
    job = ClaimedJob(outcome.id, outcome.attempt, "/v1/completions", "m", {}, 4, None, 0, "default")
    spill.put(FinishedRow(Row(uuid7(), job), outcome))

    back = spill.take().outcome

    assert outcome_values(back) == outcome_values(outcome)
    assert back.num_prompts == outcome.num_prompts
    assert [completion_values(back.id, choice) for choice in back.completions] == [
        completion_values(outcome.id, choice) for choice in outcome.completions
    ]


def test_nothing_is_written_while_memory_has_room(tmp_path: Path) -> None:
    backlog = Backlog(tmp_path, NO_LIMIT)
    rows = [finished(str(number)) for number in range(5)]
    for each in rows:
        backlog.put(each)

    assert (len(backlog), backlog.num_spilled, backlog.is_full) == (5, 0, False)
    assert [taken is put for taken, put in zip(take_all(backlog), rows, strict=True)] == [True] * 5


def test_what_memory_should_not_hold_goes_to_disk_and_comes_back_in_order(tmp_path: Path) -> None:
    rows = [finished(str(number)) for number in range(100)]
    backlog = Backlog(tmp_path, 10 * memory_bytes(rows[0].outcome))
    for each in rows[:60]:
        backlog.put(each)
    assert (backlog.num_spilled, backlog.is_full) == (50, True)
    first = backlog.take(limit=30, max_bytes=NO_LIMIT, timeout_seconds=0)
    for each in rows[60:]:
        backlog.put(each)

    taken = first + take_all(backlog)

    assert [each.row for each in taken] == [each.row for each in rows]
    assert [each.outcome.completions[0].text for each in taken] == [str(number) for number in range(100)]
    assert (len(backlog), backlog.is_full) == (0, False)


def test_group_is_bounded_in_bytes(tmp_path: Path) -> None:
    backlog = Backlog(tmp_path, 1)
    for _ in range(3):
        backlog.put(finished("x" * 10_000))

    assert len(backlog.take(limit=1000, max_bytes=15_000, timeout_seconds=0)) == 2
    backlog.close()
    assert (len(backlog), backlog.is_full) == (0, False)


def test_file_is_nobody_elses_and_goes_when_it_is_read(tmp_path: Path) -> None:
    backlog = Backlog(tmp_path, 1)
    backlog.put(finished())
    backlog.put(finished("secret"))

    [handle] = spilled_files(tmp_path)
    assert stat.S_IMODE(handle.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == []  # no name to open it by, nor to leave behind at a kill -9

    take_all(backlog)
    assert spilled_files(tmp_path) == []


def test_taker_is_woken_by_a_row(tmp_path: Path) -> None:
    backlog = Backlog(tmp_path, NO_LIMIT)
    taken: list[FinishedRow] = []
    thread = threading.Thread(target=lambda: taken.extend(backlog.take(limit=1, max_bytes=1, timeout_seconds=60)))
    thread.start()
    backlog.put(finished())
    wait_until(lambda: not thread.is_alive())

    assert len(taken) == 1


def test_disk_that_takes_no_more_loses_nothing() -> None:
    """A real limit of the system on the size of files, in a process of its own."""

    ended = subprocess.run(
        [sys.executable, "-m", "tests.unit.worker.spill_to_the_limit"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ended.returncode, ended.stdout.split()) == (0, ["50", "True", "50", "1"]), ended.stderr


def test_missing_folder_loses_nothing(tmp_path: Path) -> None:
    backlog = Backlog(tmp_path / "missing", 1)
    rows = [finished(), finished()]
    for each in rows:
        backlog.put(each)

    assert [each.row for each in take_all(backlog)] == [each.row for each in rows]


def test_file_cut_short_is_told(tmp_path: Path) -> None:
    """The worker then ends, and its rows are given back: nobody may believe that they are written."""
    backlog = Backlog(tmp_path, 1)
    for _ in range(3):
        backlog.put(finished())
    [handle] = spilled_files(tmp_path)
    os.truncate(handle, 10)

    with pytest.raises(OSError, match="cut short"):
        take_all(backlog)
    backlog.close()
