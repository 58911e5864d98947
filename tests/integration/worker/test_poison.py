"""Rows that kill their worker, and devices that do: with real worker processes that die by signal."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from cli.children import WorkerProcess, WorkerUnhealthy
from models.ids import uuid7
from models.logs import READY
from models.records import JobRecord, NewJob
from models.settings import load_settings
from models.status import FINAL, Status
from tests.integration.worker.conftest import Station
from tests.integration.worker.poisoned import POISON, RAISING
from tests.waiting import wait_until
from worker.hints import relay

KILLED = -signal.SIGKILL
DIED = 71  # by its own hand
POISONED = "tests.integration.worker.poisoned"
SECONDS = 120.0


def submit(station: Station, *prompts: str) -> list[UUID]:
    new = [NewJob(uuid7(), "noop", "/v1/completions", {"prompt": prompt, "seed": 0}) for prompt in prompts]
    station.store.submit(new)
    relay(station.app, station.store)
    return [job.id for job in new]


def start(station: Station, **environment: str) -> "subprocess.Popen[bytes]":
    """Start a worker that can be poisoned; it may be dead before anybody sees its lease."""
    return station.launch_worker(module=POISONED, CLAIMS=str(claims_file(station)), **environment)


def keep_running(station: Station, is_done: Callable[[], object], **environment: str) -> list[int]:
    """Do as a supervisor does: start the worker again whenever it dies, except of its own bad health. Returns the
    statuses with which it ended before it was done."""
    ended: list[int] = []

    def end_or_done() -> bool:
        return process.poll() is not None or bool(is_done())

    while not is_done() and not (ended and "unhealthy: " in station.log()):
        process = start(station, **environment)
        wait_until(end_or_done, SECONDS)
        if process.poll() is not None:
            ended.append(process.returncode)
    return ended


def slot_file(station: Station) -> Path:
    return station.folder / "state" / "slots" / "0.json"


def claims_file(station: Station) -> Path:
    return station.folder / "claims"


def noted_claims(station: Station) -> list[tuple[int, int]]:
    """Suspicion and number of rows of each claim."""
    lines = [line.split() for line in claims_file(station).read_text().splitlines()]
    return [(int(suspicion), int(number)) for suspicion, number in lines]


def all_final(station: Station, ids: list[UUID]) -> Callable[[], bool]:
    return lambda: set(station.store.statuses(ids).values()) <= FINAL


def verdict(job: JobRecord) -> tuple[Status, str | None]:
    return job.status, None if job.error is None else job.error.code


def test_a_poison_row_fails_after_four_crashes_and_its_neighbours_complete(sqlite_station: Station) -> None:
    """F8."""
    prompts = [f"innocent {number}" for number in range(40)]
    ids = submit(sqlite_station, *prompts[:5], POISON, *prompts[5:])

    ended = keep_running(sqlite_station, all_final(sqlite_station, ids), BATCHMILL_ROWS="64")

    assert ended == [KILLED] * 4
    jobs = {job.id: job for job in sqlite_station.store.jobs(ids)}
    poison = jobs.pop(ids[5])
    assert verdict(poison) == (Status.FAILED, "worker_crashed")
    assert (poison.attempt, poison.suspicion, poison.solo_crashes) == (4, 4, 2)
    assert {verdict(job) for job in jobs.values()} == {(Status.COMPLETED, None)}
    assert {job.completions[0].text for job in jobs.values()} == set(prompts)
    assert {number <= {0: 64, 1: 8}.get(suspicion, 1) for suspicion, number in noted_claims(sqlite_station)} == {True}


@pytest.mark.slow
def test_poison_is_isolated_under_constant_fresh_load(sqlite_station: Station) -> None:
    """F42: every fourth claim serves suspects, and no more than ten of theirs find the poison among eight. F38: this
    one's engine fails with an error, as at a device's assertion."""
    suspects = submit(sqlite_station, RAISING, *(f"innocent {number}" for number in range(7)))
    environment = {"BATCHMILL_ROWS": "8"}
    crashed = start(sqlite_station, **environment).wait(SECONDS)
    fresh = submit(sqlite_station, *(f"fresh {number}" for number in range(2000)))

    ended = keep_running(sqlite_station, all_final(sqlite_station, suspects), **environment)

    assert [crashed, *ended] == [DIED] * 4
    assert [verdict(job) for job in sqlite_station.store.jobs(suspects)] == [
        (Status.FAILED, "worker_crashed"),
        *[(Status.COMPLETED, None)] * 7,
    ]
    assert Status.QUEUED in sqlite_station.store.statuses(fresh).values()  # it was there all the time
    of_suspects = [bool(suspicion) for suspicion, _ in noted_claims(sqlite_station)]
    assert sum(of_suspects) <= 10
    between = "".join("S" if is_theirs else "f" for is_theirs in of_suspects[1:]).rstrip("f").split("S")
    assert max(map(len, between)) <= 3


@pytest.mark.parametrize(
    ("dead_device", "max_crashes"),
    [
        pytest.param("everything", 1, id="canary-dies-too"),
        pytest.param("rows", 5, id="defaults", marks=pytest.mark.slow),
    ],
)
def test_a_bad_device_stops_its_worker_and_fails_no_job(
    sqlite_station: Station, dead_device: str, max_crashes: int
) -> None:
    """F9: after the first crash the canary dies before a row is in hand; else different rows crash in turn."""
    ids = submit(sqlite_station, *("innocent" for _ in range(40 if dead_device == "rows" else 1)))

    ended = keep_running(
        sqlite_station,
        all_final(sqlite_station, ids),
        DEAD_DEVICE=dead_device,
        BATCHMILL_ROWS="8",
        BATCHMILL_MAX_CRASHES=str(max_crashes),
    )

    assert ended == [KILLED] * (max_crashes + 1) + [DIED]
    assert {worker.state for worker in sqlite_station.store.workers()} == {"unhealthy"}
    assert f"unhealthy: crashed {max_crashes + 1} times" in sqlite_station.log()
    jobs = sqlite_station.store.jobs(ids)
    assert {job.status for job in jobs} == {Status.QUEUED}
    if dead_device == "everything":
        assert [job.suspicion for job in jobs] == [1]
    sqlite_station.start_worker(BATCHMILL_MAX_CRASHES="99")  # where the device is well
    wait_until(all_final(sqlite_station, ids), SECONDS)


def test_a_crash_is_confirmed_before_the_model_is_loaded(sqlite_station: Station) -> None:
    """A large one takes longer than a lease: by then others would have reaped the row, and blamed it for nothing."""
    ids = submit(sqlite_station, POISON)
    assert start(sqlite_station).wait(SECONDS) == KILLED

    start(sqlite_station, LOAD_SECONDS=str(SECONDS))

    wait_until(lambda: sqlite_station.store.jobs(ids)[0].suspicion, SECONDS)
    assert sqlite_station.log().count(READY) == 1


def test_a_worker_that_had_finished_rows_is_not_called_unhealthy_for_its_crash(sqlite_station: Station) -> None:
    slot_file(sqlite_station).parent.mkdir(parents=True)
    slot_file(sqlite_station).write_text(json.dumps({"stage": "left", "crashes": [{"at": time.time(), "jobs": []}]}))
    innocent = submit(sqlite_station, "innocent")
    first = start(sqlite_station)
    wait_until(all_final(sqlite_station, innocent), SECONDS)
    wait_until(lambda: json.loads(slot_file(sqlite_station).read_text())["stage"] == "worked", SECONDS)
    poison = submit(sqlite_station, POISON)
    assert first.wait(SECONDS) == KILLED
    sqlite_station.store.cancel(poison[0])

    start(sqlite_station, BATCHMILL_MAX_CRASHES="1")

    wait_until(lambda: sqlite_station.log().count(READY) == 2, SECONDS)
    assert "unhealthy" not in sqlite_station.log()


def test_a_supervisor_starts_no_unhealthy_worker_again(sqlite_station: Station) -> None:
    slot_file(sqlite_station).parent.mkdir(parents=True)
    crashes = [{"at": time.time(), "jobs": []} for _ in range(6)]
    slot_file(sqlite_station).write_text(json.dumps({"stage": "left", "crashes": crashes}))
    settings = load_settings(
        database_url=sqlite_station.database_url,
        redis_url=sqlite_station.redis_url,
        state_dir=sqlite_station.folder / "state",
        model="noop",
    )
    worker = WorkerProcess(settings, sqlite_station.folder / "worker.log", on_ready=lambda _: None)
    worker.start()

    with pytest.raises(WorkerUnhealthy, match="the worker is unhealthy: crashed 6 times within 10 minutes"):
        wait_until(lambda: worker.look_after(progressed=False), 60)
    assert sqlite_station.log().count("unhealthy: ") == 1
