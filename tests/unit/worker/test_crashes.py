"""What a slot remembers of its crashes, and when it calls its device unhealthy."""

from collections.abc import Collection
from pathlib import Path
from uuid import UUID

import pytest

from worker.crashes import WINDOW_SECONDS, Crash, CrashLog, Stage, UnhealthyError, check_health

JOBS = [UUID(int=number) for number in range(10)]


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "0.json"


def test_a_process_that_left_did_not_crash(path: Path, clock: Clock) -> None:
    assert not CrashLog(path, clock).begin([])
    CrashLog(path, clock).end()
    assert not CrashLog(path, clock).begin([])
    assert CrashLog(path, clock).recent() == []


def test_a_process_that_did_not_leave_crashed_with_what_it_held(path: Path, clock: Clock) -> None:
    CrashLog(path, clock).begin([])
    assert CrashLog(path, clock).begin(JOBS[:2])
    assert CrashLog(path, clock).begin(JOBS[2:3])
    CrashLog(path, clock).end()
    assert CrashLog(path, clock).recent() == [
        Crash(clock.now, [JOBS[0].hex, JOBS[1].hex]),
        Crash(clock.now, [JOBS[2].hex]),
    ]


@pytest.mark.parametrize(
    ("stage", "held", "is_counted"),
    [
        pytest.param(Stage.STARTED, JOBS[:1], True, id="row-in-hand"),
        pytest.param(Stage.STARTED, [], False, id="idle"),
        pytest.param(Stage.TRYING, [], True, id="prompt-of-our-own"),
        pytest.param(Stage.WORKED, JOBS[:1], False, id="after-finished-rows"),
    ],
)
def test_what_a_killed_process_says_of_its_device(
    path: Path, clock: Clock, stage: Stage, held: list[UUID], is_counted: bool
) -> None:
    CrashLog(path, clock).begin([])
    CrashLog(path, clock).reach(stage)
    assert CrashLog(path, clock).begin(held)
    assert len(CrashLog(path, clock).recent()) == is_counted


@pytest.mark.parametrize("leap", [WINDOW_SECONDS + 1, -WINDOW_SECONDS - 1])
def test_crashes_are_past_after_a_while_and_when_the_clock_was_set(path: Path, clock: Clock, leap: float) -> None:
    CrashLog(path, clock).begin([])
    CrashLog(path, clock).begin(JOBS[:1])
    assert CrashLog(path, clock).recent()
    clock.now += leap
    assert CrashLog(path, clock).recent() == []


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"stage": "new", "crashes": []}'])
def test_a_torn_file_is_no_reason_not_to_start(path: Path, clock: Clock, content: str) -> None:
    path.write_text(content)
    assert not CrashLog(path, clock).begin([])
    assert CrashLog(path, clock).begin([])


def test_a_full_disk_is_no_reason_not_to_start(tmp_path: Path, clock: Clock) -> None:
    log = CrashLog(tmp_path / "missing" / "0.json", clock)  # as unwritable as a full disk
    assert not log.begin([])
    log.end()


def judge(crashes: list[list[UUID]], *, guilty: Collection[UUID] = (), max_crashes: int = 5) -> None:
    def find(ids: Collection[UUID]) -> set[UUID]:
        return set(ids) & set(guilty)

    held = [Crash(0.0, [id.hex for id in ids]) for ids in crashes]
    check_health(held, max_crashes=max_crashes, guilty=find)


def test_more_crashes_with_different_rows_than_allowed_are_the_devices_fault() -> None:
    judge([[id] for id in JOBS[:5]])
    with pytest.raises(UnhealthyError, match="crashed 6 times"):
        judge([[id] for id in JOBS[:6]])


def test_crashes_on_a_prompt_of_our_own_count_too() -> None:
    with pytest.raises(UnhealthyError):
        judge([[]] * 6)


def test_crashes_that_a_guilty_row_explains_do_not_count() -> None:
    poison = JOBS[9]
    judge([[poison, id] for id in JOBS[:4]] + [[id] for id in JOBS[:5]], guilty=[poison])
    with pytest.raises(UnhealthyError, match="crashed 6 times"):
        judge([[poison, id] for id in JOBS[:4]] + [[id] for id in JOBS[:6]], guilty=[poison])
