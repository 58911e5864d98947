"""PostgreSQL away, silent, killed, slow, full, with no connection left, and with transactions in each other's way."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from models.claims import Claims
from models.database import Database
from models.engines import POOL_WAIT_SECONDS
from models.errors import DatabaseUnavailable
from models.ids import parse_job_id
from models.patience import CONNECT_SECONDS, PING_SECONDS
from models.settings import Settings
from models.status import Status
from models.store import Store
from tests.integration.faults.conftest import JOB, service
from tests.integration.faults.held_engine import HeldEngine
from tests.integration.faults.servers import PrivatePostgreSQL
from tests.integration.store.making import completed, new_jobs, new_worker
from tests.integration.worker.workbench import Workbench
from tests.waiting import wait_until
from worker.noop_engine import NoopEngine


@pytest.fixture
def own_database(own_postgresql: PrivatePostgreSQL) -> Iterator[Database]:
    database = Database(own_postgresql.url)
    yield database
    database.dispose()


def post(client: TestClient) -> Any:  # noqa: ANN401 (the test client's own response)
    return client.post("/v1/completions", json=JOB)


def refusal(answer: Any) -> tuple[int, str, str]:  # noqa: ANN401
    return answer.status_code, answer.json()["error"]["code"], answer.headers["retry-after"]


def test_limits_add_up_to_three_seconds() -> None:
    assert PING_SECONDS + CONNECT_SECONDS <= 3
    assert POOL_WAIT_SECONDS <= 3


def test_server_that_is_killed_refuses_and_comes_back_with_all_it_accepted(
    own_postgresql: PrivatePostgreSQL, own_database: Database, settings: Settings
) -> None:
    """F17, F18: never 200, never 500; what was accepted is there; finished rows are written from memory."""
    engine = HeldEngine(rows=32)
    with service(settings, own_database) as client, Workbench(own_database, engine) as bench:
        running = bench.submit(*[{"prompt": "a"}] * 32)
        wait_until(lambda: engine.num_live == 32)
        accepted = [parse_job_id(post(client).json()["id"]) for _ in range(5)]
        own_postgresql.kill()
        refused = [post(client) for _ in range(3)]
        ready = client.get("/health/ready")
        engine.go_on.set()
        wait_until(lambda: engine.num_live == 0)
        own_postgresql.start()

        wait_until(lambda: set(bench.store.statuses(running).values()) == {Status.COMPLETED}, 60)
        assert {refusal(answer) for answer in refused} == {(503, "database_unavailable", "2")}
        assert (ready.status_code, ready.json()["database"]) == (503, "unavailable")
        assert bench.store.statuses(accepted) == dict.fromkeys(accepted, Status.QUEUED)
        assert {(job.attempt, len(job.completions)) for job in bench.store.jobs(running)} == {(1, 1)}
        assert post(client).status_code == 200


def test_server_that_says_nothing_is_unavailable(
    own_postgresql: PrivatePostgreSQL, own_database: Database, settings: Settings
) -> None:
    """F17 where nothing is refused, only swallowed. Without a bound every request would hang until the server is back,
    and those that wait for another one's failure would wait for their own as well."""
    with service(settings, own_database) as client:
        before = post(client)
        with own_postgresql.stopped(), ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: post(client), range(8)))
        after = post(client)

    assert {refusal(answer) for answer in answers} == {(503, "database_unavailable", "2")}
    assert (before.status_code, after.status_code) == (200, 200)


def test_statement_that_is_swallowed_ends(own_postgresql: PrivatePostgreSQL) -> None:
    database = Database(own_postgresql.url, statement_timeout_seconds=0.5)

    def ask_twice() -> None:
        with database.read() as connection:
            connection.execute(text("SELECT 1"))
            with own_postgresql.stopped():
                connection.execute(text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable):
        ask_twice()
    assert Store(database).statuses([]) == {}
    database.dispose()


def test_slow_statement_is_refused(own_postgresql: PrivatePostgreSQL, settings: Settings) -> None:
    database = Database(own_postgresql.url, statement_timeout_seconds=0.5)
    with service(settings, database) as client, psycopg.connect(own_postgresql.url) as other:
        other.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        slow = post(client)
        other.rollback()
        after = post(client)
    database.dispose()

    assert refusal(slow) == (503, "database_busy", "2")
    assert after.status_code == 200


def test_no_connection_left_is_overloaded(
    own_postgresql: PrivatePostgreSQL, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F21."""
    monkeypatch.setattr("models.engines.POOL_WAIT_SECONDS", 0.2)
    database = Database(own_postgresql.url, pool_size=1)
    with service(settings, database) as client:
        with database.read(), database.read():  # the pool's one, and the one beyond it
            full = post(client)
        after = post(client)
    database.dispose()

    assert refusal(full) == (503, "overloaded", "2")
    assert after.status_code == 200


def test_server_without_connections_left_is_unavailable(own_postgresql: PrivatePostgreSQL, settings: Settings) -> None:
    """F21 where it is the server that has none. Why it refuses a connection the driver tells in no code."""
    with psycopg.connect(own_postgresql.url, autocommit=True) as admin:
        admin.execute("CREATE ROLE narrow LOGIN CONNECTION LIMIT 0")
        admin.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO narrow")
        try:
            database = Database(own_postgresql.url.replace("postgres:@", "narrow:@"))
            with service(settings, database) as client:
                assert refusal(post(client)) == (503, "database_unavailable", "2")
            database.dispose()
        finally:
            admin.execute("DROP OWNED BY narrow")
            admin.execute("DROP ROLE narrow")


def test_deadlock_is_nobodys_trouble(own_postgresql: PrivatePostgreSQL) -> None:
    """F20: another program locks two rows in the other order; the server ends our transaction, which runs again."""
    with psycopg.connect(own_postgresql.url, autocommit=True) as admin:
        admin.execute("ALTER DATABASE postgres SET deadlock_timeout = '3s'")
        database = Database(own_postgresql.url)
        store, claims = Store(database), Claims(database)
        first, second = sorted(new_jobs(2), key=lambda job: job.id)
        store.submit([first, second])
        worker_id = new_worker(claims)
        held = claims.claim(worker_id, [first.id, second.id])
        before = num_deadlocks(admin)
        with psycopg.connect(own_postgresql.url) as other:
            other.execute("SET deadlock_timeout = '1h'")  # so that ours finds out
            other.execute("UPDATE jobs SET priority = priority WHERE id = %s", (second.id,))
            thread = threading.Thread(target=lambda: claims.commit(worker_id, [completed(job) for job in held]))
            thread.start()
            wait_until(lambda: num_waiting(admin) == 1)
            other.execute("UPDATE jobs SET priority = priority WHERE id = %s", (first.id,))
            other.commit()
        thread.join(30)

        assert set(store.statuses([first.id, second.id]).values()) == {Status.COMPLETED}
        wait_until(lambda: num_deadlocks(admin) == before + 1)
        admin.execute("ALTER DATABASE postgres RESET deadlock_timeout")
        database.dispose()


def num_deadlocks(admin: "psycopg.Connection[tuple[int]]") -> int:
    row = admin.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])


def num_waiting(admin: "psycopg.Connection[tuple[int]]") -> int:
    row = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchone()
    assert row is not None
    return int(row[0])


def test_forgotten_transaction_is_ended_and_claims_do_not_wait_for_it(
    own_postgresql: PrivatePostgreSQL, own_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F40: one of ours that stands still between two statements, with a row locked; its neighbours are claimed at once,
    its row once the server has ended it."""
    monkeypatch.setattr("models.engines.IDLE_IN_TRANSACTION_SECONDS", 1)
    forgetful, store, claims = Database(own_postgresql.url), Store(own_database), Claims(own_database)
    new = new_jobs(10)
    ids = [job.id for job in new]
    store.submit(new)
    worker_id = new_worker(claims)
    later: set[object] = set()

    def claim_first() -> bool:
        later.update(job.id for job in claims.claim(worker_id, ids[:1]))
        return bool(later)

    def forget() -> None:
        with forgetful.transaction() as connection:
            connection.execute(text("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE"), {"id": ids[0]})
            at_once.update(job.id for job in claims.claim(worker_id, ids))
            wait_until(claim_first)
            connection.execute(text("SELECT 1"))

    at_once: set[object] = set()
    with pytest.raises(DatabaseUnavailable):
        forget()
    forgetful.dispose()

    assert (at_once, later) == ({*ids[1:]}, {ids[0]})


FULL = """
    CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$
"""


def test_full_disk_of_the_server_is_told_and_results_are_kept(
    own_postgresql: PrivatePostgreSQL, own_database: Database, settings: Settings
) -> None:
    """F23: the server's own error for it (53100), raised by a trigger, as its disk cannot be filled from here."""
    engine = HeldEngine(rows=8)
    with (
        service(settings, own_database) as client,
        Workbench(own_database, engine, max_result_bytes=1024) as bench,
        psycopg.connect(own_postgresql.url, autocommit=True) as admin,
    ):
        running = bench.submit(*[{"prompt": "a"}] * 8)
        wait_until(lambda: engine.num_live == 8)
        admin.execute(FULL)
        for table in ("jobs", "completions"):
            admin.execute(f"CREATE TRIGGER full_{table} BEFORE INSERT ON {table} EXECUTE FUNCTION disk_full()")
        full = post(client)
        engine.go_on.set()
        wait_until(lambda: engine.num_live == 0)
        assert set(bench.store.statuses(running).values()) == {Status.IN_PROGRESS}
        admin.execute("DROP FUNCTION disk_full CASCADE")

        wait_until(lambda: set(bench.store.statuses(running).values()) == {Status.COMPLETED})
        assert refusal(full) == (507, "insufficient_storage", "2")
        assert {job.attempt for job in bench.store.jobs(running)} == {1}
        assert post(client).status_code == 200


def test_results_that_pile_up_hold_back_further_claims(own_database: Database) -> None:
    """The database may take claims and no results; then no more rows are taken than memory should hold results of."""
    with Workbench(own_database, NoopEngine(rows=4), max_result_bytes=1) as bench:
        wait_until(lambda: not bench.writer.is_behind)
        with own_database.transaction() as connection:
            connection.execute(text("LOCK TABLE completions IN ACCESS EXCLUSIVE MODE"))
            ids = bench.submit(*[{"prompt": "a"}] * 40)
            wait_until(lambda: bench.writer.is_behind and not bench.feeder.wants_more and bench.backlog.num_spilled)
            statuses = [*bench.store.statuses(ids).values()]
            assert statuses.count(Status.QUEUED) > 0
        wait_until(lambda: set(bench.store.statuses(ids).values()) == {Status.COMPLETED})
        assert {job.attempt for job in bench.store.jobs(ids)} == {1}
