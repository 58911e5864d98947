"""Clocks that jump, and who believes whom: leases go by the database's clock, and by nobody else's."""

import ast
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text, update

from models.claims import Claims
from models.database import Database
from models.ids import uuid7
from models.records import NewJob, Reaped
from models.status import Status
from models.store import Store
from models.tables import workers
from tests.integration.store.making import SHORT, completed, new_jobs, new_worker
from tests.integration.worker.conftest import Station
from tests.waiting import wait_until
from worker.hints import relay

ROOT = Path(__file__).parents[3]
HOUR = 3600
LEASE_SECONDS = 2
JUDGES = ("models/leases.py", "models/claims.py", "models/transitions.py", "worker/lease.py", "worker/keeper.py")
WALL_CLOCKS = {"datetime", "time.time", "time.time_ns", "time.gmtime", "time.localtime"}


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that shifts the wall clock of the process it is preloaded into."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler and Linux's preloading")
    library = tmp_path_factory.mktemp("clock") / "shift_clock.so"
    source = Path(__file__).with_name("shift_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def place(postgresql_url: str, redis_url: str, tmp_path: Path) -> Iterator[Station]:
    station = Station(postgresql_url, redis_url, tmp_path)
    yield station
    station.close()


def shifted_by(library: Path, seconds: int) -> dict[str, str]:
    return {"LD_PRELOAD": str(library), "SHIFT_SECONDS": str(seconds)}


def test_the_shifted_clock_is_shifted(shifted: Path) -> None:
    script = "import datetime, time; print(time.time(), datetime.datetime.now().timestamp(), time.monotonic())"
    output = subprocess.check_output([sys.executable, "-c", script], env=os.environ | shifted_by(shifted, HOUR))
    own = float(subprocess.check_output([sys.executable, "-c", "import time; print(time.time())"]))
    first, second, monotonic = map(float, output.split())

    assert HOUR - 60 < first - own < HOUR + 60
    assert abs(second - first) < 1
    assert monotonic < own - HOUR


@pytest.mark.slow
def test_workers_whose_clocks_are_an_hour_off_keep_their_leases(shifted: Path, place: Station) -> None:
    """F27: neither believes itself or the other to be dead, and no row is run twice."""
    for seconds in (HOUR, -HOUR):
        place.start_worker(BATCHMILL_LEASE_SECONDS=str(LEASE_SECONDS), **shifted_by(shifted, seconds))
    ids = {worker.id for worker in place.store.workers()}
    first = newest_heartbeats(place)
    wait_until(lambda: min(newest_heartbeats(place)[id] - first[id] for id in ids) > 2 * LEASE_SECONDS)
    jobs = [NewJob(uuid7(), "noop", "/v1/completions", {"prompt": "a", "seed": 1}) for _ in range(200)]
    place.store.submit(jobs)
    relay(place.app, place.store, model="noop")
    job_ids = [job.id for job in jobs]
    wait_until(lambda: set(place.store.statuses(job_ids).values()) == {Status.COMPLETED})

    assert {worker.id for worker in place.store.workers()} == ids
    assert {job.attempt for job in place.store.jobs(job_ids)} == {1}


def newest_heartbeats(place: Station) -> dict[UUID, float]:
    """When each live worker last renewed its lease, by the database's clock."""
    return {worker.id: worker.heartbeat_at.timestamp() for worker in place.store.workers() if worker.heartbeat_at}


@pytest.mark.parametrize("path", JUDGES)
def test_who_judges_leases_reads_no_wall_clock(path: str) -> None:
    """F27: of all that decides on a lease nothing asks the host for the time of day."""
    tree = ast.parse((ROOT / path).read_text())
    names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Name | ast.Attribute)}
    assert names & WALL_CLOCKS == set()


def test_database_clock_that_jumps_ahead_repeats_rows_and_counts_none_twice(
    database: Database, store: Store, claims: Claims
) -> None:
    """F28: seen from the lease it is the same whether the clock goes on by an hour or its end comes an hour sooner."""
    new = new_jobs(20)
    ids = [job.id for job in new]
    store.submit(new)
    early = new_worker(claims, slot="a")
    held = claims.claim(early, ids)
    jump(database, early)

    assert not claims.heartbeat(early, lease_seconds=60)
    assert claims.reap() == Reaped(num_workers=1, num_jobs=20)
    later = new_worker(claims, slot="b")
    again = claims.claim(later, ids)
    late = claims.commit(early, [completed(job) for job in held])
    result = claims.commit(later, [completed(job) for job in again])

    assert (late.applied, late.fenced) == (frozenset(), frozenset(ids))
    assert result.applied == frozenset(ids)
    assert {(job.attempt, len(job.completions), job.suspicion) for job in store.jobs(ids)} == {(2, 1, 0)}


def jump(database: Database, worker_id: UUID) -> None:
    hour = {"postgresql": "interval '1 hour'", "sqlite": "3600"}[database.dialect]
    times = {name: text(f"{name} - {hour}") for name in ("started_at", "heartbeat_at", "lease_until")}
    with database.transaction() as connection:
        connection.execute(update(workers).where(workers.c.id == worker_id).values(times))


def test_of_many_sweepers_one_takes_each_lost_worker(database_url: str) -> None:
    """F29."""
    database = Database(database_url, pool_size=8)
    store, claims = Store(database), Claims(database)
    new = new_jobs(60)
    store.submit(new)
    for number in range(12):
        lost = new_worker(claims, slot=f"host/{number}")
        claims.claim(lost, [job.id for job in new[number * 5 : number * 5 + 5]])
        claims.heartbeat(lost, lease_seconds=SHORT)
    wait_until(lambda: store.workers() == [])
    together, found = threading.Barrier(6), list[Reaped]()

    def sweep() -> None:
        together.wait(10)
        found.extend(claims.reap() for _ in range(3))

    run_each(*[sweep] * 6)

    assert (sum(one.num_workers for one in found), sum(one.num_jobs for one in found)) == (12, 60)
    assert set(store.statuses([job.id for job in new]).values()) == {Status.QUEUED}
    database.dispose()


def test_cancel_claim_and_completion_race_and_one_wins(database_url: str) -> None:
    """F30: whatever the cancel was answered holds in the end, and a job counts once."""
    database = Database(database_url, pool_size=8)
    store, claims = Store(database), Claims(database)
    new = new_jobs(150)
    ids = [job.id for job in new]
    store.submit(new)
    answers: dict[UUID, Status | None] = {}
    applied: Counter[UUID] = Counter()

    def cancel() -> None:
        for job_id in reversed(ids):
            answers[job_id] = store.cancel(job_id)

    def work() -> None:
        worker_id = new_worker(claims, slot=str(threading.get_ident()))
        for start in range(0, len(ids), 5):
            held = claims.claim(worker_id, ids[start : start + 5])
            applied.update(claims.commit(worker_id, [completed(job) for job in held]).applied)

    run_each(cancel, work, work)

    final = store.statuses(ids)
    told = {
        Status.CANCELLED: Status.CANCELLED,
        Status.IN_PROGRESS: Status.CANCELLED,
        Status.COMPLETED: Status.COMPLETED,
    }
    assert final == {id: told[answer] for id, answer in answers.items() if answer is not None}
    assert set(final.values()) == {Status.COMPLETED, Status.CANCELLED}
    assert set(applied) == {id for id in ids if final[id] is Status.COMPLETED}
    assert max(applied.values()) == 1
    database.dispose()


def run_each(*works: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
