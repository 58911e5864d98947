"""The queue's law with real processes: no attempt is shared, no late write counts, each job ends once."""

import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, text

from models import dialects, tables
from models.batch_store import BatchStore
from models.claims import Claims
from models.database import Database
from models.idempotency import by_key
from models.records import ClaimedJob, JobRecord, Reaped
from models.status import FINAL, BatchStatus, Status
from models.store import Store
from models.submitting import Submission, Submitted
from models.suspects import Level
from tests.freezing import freeze
from tests.integration.store.making import completed, lines, new_jobs, new_worker, whole_batch
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
NUM_PROCESSES = 3


class Process:
    """A process of processes.py, stopped before its work until told to go on."""

    def __init__(self, mode: str, url: str, seed: int, ids: Sequence[UUID]) -> None:
        command = [sys.executable, "-m", "tests.integration.store.processes", mode, url, str(seed)]
        self.popen = subprocess.Popen(
            command + [id.hex for id in ids], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def word(self) -> str:
        """Wait until it is ready."""
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().strip()

    def go_on(self) -> None:
        """Let it work."""
        assert self.popen.stdin is not None
        self.popen.stdin.write("go on\n")
        self.popen.stdin.flush()

    def answer(self) -> Any:  # noqa: ANN401 - what its mode says
        """Wait until it is done."""
        out, _ = self.popen.communicate(timeout=90)
        assert self.popen.returncode == 0
        return json.loads(out)


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    """Those started here are ended here."""
    started: list[Process] = []
    yield started
    for process in started:
        process.popen.kill()
        process.popen.communicate()


def start(processes: list[Process], mode: str, url: str, ids: Sequence[UUID], *, number: int) -> list[Process]:
    new = [Process(mode, url, seed, ids) for seed in range(number)]
    processes += new
    return new


def test_claimers_never_share_an_attempt(store: Store, database_url: str, processes: list[Process]) -> None:
    jobs = new_jobs(600)
    store.submit(jobs)
    claimers = start(processes, "grab", database_url, [job.id for job in jobs], number=4)
    for process in claimers:
        assert process.word() == "ready"
    for process in claimers:
        process.go_on()

    claimed = [(id, attempt) for process in claimers for id, attempt in process.answer()]

    assert sorted(claimed) == sorted((job.id.hex, 1) for job in jobs)


def test_a_late_write_after_a_reap_is_refused(
    store: Store, claims: Claims, database_url: str, processes: list[Process]
) -> None:
    jobs = new_jobs(20)
    store.submit(jobs)
    (stalled,) = start(processes, "hold", database_url, [job.id for job in jobs], number=1)
    assert stalled.word() == "20"
    wait_until(lambda: claims.reap().num_jobs)
    worker_id = new_worker(claims)
    mine, held = jobs[:10], jobs[10:]
    claims.commit(worker_id, [completed(job) for job in claims.claim(worker_id, [job.id for job in mine])])
    claims.claim(worker_id, [job.id for job in held])

    stalled.go_on()

    assert stalled.answer() == {"applied": 0, "fenced": 20}
    assert {job.completions[0].text for job in store.jobs([job.id for job in mine])} == {"hi"}
    assert set(store.statuses([job.id for job in held]).values()) == {Status.IN_PROGRESS}


def test_a_reaper_leaves_a_worker_alone_whose_claim_is_under_way(postgresql_url: str) -> None:
    """Else the rows would belong to a worker that nobody knows, for ever. Seen red without FOR KEY SHARE."""
    database = Database(postgresql_url)
    store, claims = Store(database), Claims(database)
    jobs = new_jobs(3)
    store.submit(jobs)
    worker_id = new_worker(claims)
    with database.transaction() as connection:
        assert len(dialects.of(connection).claim(connection, worker_id, [job.id for job in jobs], Level.NONE)) == 3
        assert claims.heartbeat(worker_id, lease_seconds=0)  # which the claim does not hold up
        assert claims.reap() == Reaped()

    assert claims.reap() == Reaped(num_workers=1, num_jobs=3)
    database.dispose()


def test_a_claimer_killed_in_its_transaction_leaves_rows_and_locks_to_others(
    store: Store, claims: Claims, database_url: str, processes: list[Process]
) -> None:
    jobs = new_jobs(20)
    store.submit(jobs)
    ids = [job.id for job in jobs]
    (stuck,) = start(processes, "stick", database_url, ids, number=1)
    assert stuck.word() == "20"

    stuck.popen.kill()
    stuck.popen.wait(10)

    worker_id = new_worker(claims)
    claimed: list[ClaimedJob] = []

    def claim_all() -> bool:
        """What the dead one had locked is free once the server has noticed."""
        claimed.extend(claims.claim(worker_id, ids))
        return len(claimed) == 20

    wait_until(claim_all)
    assert {job.attempt for job in claimed} == {1}
    wait_until(lambda: num_locks(store.database) == 0)


def num_locks(database: Database) -> int:
    """How many of our tables transactions of other clients have locked. SQLite has one lock, tried here."""
    with database.transaction() as connection:
        if database.dialect == "sqlite":
            return 0
        query = (
            "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) JOIN pg_class ON pg_class.oid = relation"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            " AND relnamespace = 'public'::regnamespace AND datname = current_database()"
        )
        return int(connection.execute(text(query)).scalar_one())


def test_every_job_ends_once_whatever_workers_do(
    batches: BatchStore, database_url: str, processes: list[Process]
) -> None:
    """Stalls, late and repeated commits, releases, cancels, and a kill -9 in the middle of it."""
    batch_id = whole_batch(batches, lines(400))
    workers = begin_work(processes, database_url, batch_id)
    wait_for_some(batches, batch_id)
    workers[0].popen.kill()

    ends_once(batches, batch_id, [process.answer() for process in workers[1:]])


def test_every_job_ends_once_though_a_worker_stands_still(
    batches: BatchStore, database_url: str, processes: list[Process]
) -> None:
    """Stopped until others have taken what it held, it goes on as if nothing had been; meanwhile another is killed."""
    batch_id = whole_batch(batches, lines(400))
    workers = begin_work(processes, database_url, batch_id)
    wait_for_some(batches, batch_id)
    freeze(database_url, workers[1].popen.pid)
    workers[0].popen.kill()
    claims = Claims(batches.database, max_attempts=1000)

    def is_reaped() -> bool:
        claims.reap()  # the others have ended by now if it held nothing
        return num_workers(batches.database, slot="work/1") == 0

    wait_until(is_reaped)
    workers[1].popen.send_signal(signal.SIGCONT)

    ends_once(batches, batch_id, [process.answer() for process in workers[1:]])
    wait_until(lambda: num_locks(batches.database) == 0)


def num_workers(database: Database, *, slot: str) -> int:
    with database.read() as connection:
        return connection.scalars(select(func.count()).select_from(tables.workers).filter_by(slot=slot)).one()


def begin_work(processes: list[Process], url: str, batch_id: UUID) -> list[Process]:
    workers = start(processes, "work", url, [batch_id], number=NUM_PROCESSES)
    for process in workers:
        assert process.word() == "ready"
    for process in workers:
        process.go_on()
    return workers


def ends_once(batches: BatchStore, batch_id: UUID, answers: Sequence[Any]) -> None:
    """By what the surviving workers say and what is stored."""
    rows = batches.results(batch_id)
    applied = Counter(id for answer in answers for id, _ in answer["applied"])
    attempts = {id: attempt for answer in answers for id, attempt in answer["applied"]}
    assert max(applied.values()) == 1
    assert {row.status for row in rows} <= FINAL
    assert all(
        row.status is Status.COMPLETED and row.attempt == attempts[row.id.hex] for row in rows if row.id.hex in attempts
    )
    assert all(tells_its_attempt(row) for row in rows)
    assert sum(answer["num_fenced"] for answer in answers) > 0, "no late write was tried: the test tests nothing"
    counts_agree(batches, batch_id, rows)


def wait_for_some(batches: BatchStore, batch_id: UUID) -> None:
    wait_until(lambda: batches.marks([batch_id])[batch_id].num_completed > 20)


def tells_its_attempt(row: JobRecord) -> bool:
    """A completed row has one completion, written at the attempt the row ended with; others have none."""
    texts = [choice.text.split("/")[1] for choice in row.completions]
    return texts == ([str(row.attempt)] if row.status is Status.COMPLETED else [])


def counts_agree(batches: BatchStore, batch_id: UUID, rows: Sequence[JobRecord]) -> None:
    batch = batches.get(batch_id)
    assert batch is not None
    assert batch.status is BatchStatus.COMPLETED
    by_status = Counter(row.status for row in rows)
    assert batch.num_total == len(rows)
    assert (batch.num_completed, batch.num_failed) == (by_status[Status.COMPLETED], by_status[Status.FAILED])
    assert (batch.num_cancelled, batch.num_expired) == (by_status[Status.CANCELLED], by_status[Status.EXPIRED])
    assert batch.output_tokens == 2 * by_status[Status.COMPLETED]


def test_a_key_sent_by_several_at_once_makes_one_job(store: Store, database_url: str) -> None:
    jobs = new_jobs(8)
    once = by_key("k", "/v1/completions", b"1")
    results: list[Submitted] = []
    threads = [
        threading.Thread(target=lambda job=job: results.extend(store.submit_all([Submission(job, once)])))
        for job in jobs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({id for id, _ in results}) == 1
    assert sorted(replayed for _, replayed in results) == [False] + [True] * 7
    assert sum(store.queue_depth().values()) == 1
