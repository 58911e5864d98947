"""Which queued rows are announced next: fair between owners, the urgent first, none waiting for ever."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, select, text, update

from models import fair
from models.claims import Claims
from models.database import Database
from models.fair import Room
from models.messages import NUM_LISTS
from models.records import Hint, NewJob
from models.store import Store
from models.tables import jobs
from tests.integration.store.making import MODEL, new_job, new_jobs, new_worker

AGEING_SECONDS = 100.0
TOP, USUAL, LOW, LAST = range(NUM_LISTS)  # the lists, in the order in which they are emptied
FULL = Room(0)


def take(store: Store, rooms: Sequence[Room] | None = None, *, room: int = 4) -> list[list[Hint]]:
    """What goes out now, list by list, after what was given back; room is in messages of one row."""
    rooms = rooms if rooms is not None else [Room(room, 1, chunk=1)] * NUM_LISTS
    return store.take_for_lists(MODEL, rooms, ageing_seconds=AGEING_SECONDS)


def ids(hints: Sequence[Hint | NewJob]) -> list[object]:
    return [hint.id for hint in hints]


def let_wait(database: Database, waiting: Sequence[NewJob], seconds: float, *, column: str = "created_at") -> None:
    """As if that had passed since they were accepted, or announced."""
    past = timedelta(seconds=seconds)
    for job in waiting:
        with database.transaction() as connection:
            row = connection.execute(select(jobs.c[column]).where(jobs.c.id == job.id)).scalar_one()
            connection.execute(update(jobs).where(jobs.c.id == job.id).values({column: row - past}))


def test_owners_have_their_turns(store: Store) -> None:
    first, second, third = (new_jobs(num, tenant=tenant) for num, tenant in ((6, "a"), (2, "b"), (1, "c")))
    store.submit(first)
    store.submit(second + third)

    taken = take(store, room=7)[1 + USUAL]

    assert ids(taken) == ids([first[0], second[0], third[0], first[1], second[1], first[2], first[3]])


def test_what_some_do_not_need_goes_to_the_others(store: Store) -> None:
    many = new_jobs(50, tenant="a")
    store.submit(many)
    store.submit(new_jobs(1, tenant="b"))

    assert len(take(store, room=20)[1 + USUAL]) == 20


def test_more_owners_than_places_come_one_after_the_other(store: Store) -> None:
    waiting = [new_job(tenant=f"tenant {number}") for number in range(9)]
    for job in waiting:
        store.submit([job])

    assert ids(take(store)[1 + USUAL]) == ids(waiting[:4])
    assert ids(take(store)[1 + USUAL]) == ids(waiting[4:8])


def test_the_more_urgent_of_a_list_go_first(store: Store) -> None:
    late, early = new_job(priority=5, tenant="b"), new_job(priority=4)
    store.submit([early])
    store.submit([late])

    hints = take(store)[1 + USUAL]

    assert [(hint.id, hint.priority) for hint in hints] == [(late.id, 5), (early.id, 4)]


def test_a_full_list_keeps_out_its_own_rows_and_no_more_urgent_ones(store: Store) -> None:
    store.submit(new_jobs(5))
    urgent = new_job(priority=9)
    store.submit([urgent])

    taken = take(store, [Room(4), FULL, FULL, FULL])

    assert [ids(hints) for hints in taken] == [[], [urgent.id], [], [], []]


def test_no_more_is_taken_than_there_is_room_for(store: Store) -> None:
    store.submit(new_jobs(30) + new_jobs(30, priority=0))

    assert [len(hints) for hints in take(store)] == [0, 0, 4, 0, 4]


def test_a_row_that_waited_long_goes_out_before_its_list(store: Store, database: Database) -> None:
    old, fresh = new_job(priority=0), new_job(priority=0)
    store.submit([old, fresh])
    let_wait(database, [old], 2.5 * AGEING_SECONDS)

    taken = take(store, [Room(4), Room(4), FULL, FULL])

    assert [[(hint.id, hint.priority) for hint in hints] for hints in taken] == [[], [], [], [], []]
    taken = take(store, [Room(4, 1, 8), Room(4, 1, 8), FULL, FULL])
    assert [(hint.id, hint.priority) for hint in taken[1 + USUAL]] == [(old.id, 6)]
    assert [ids(hints) for hints in take(store, room=4)] == [[], [], [], [], [fresh.id]]


def test_raised_rows_leave_most_of_a_list_to_its_own(store: Store, database: Database) -> None:
    old, urgent = new_jobs(100, tenant="a"), new_jobs(100, tenant="b", priority=9)
    store.submit(old + urgent)
    let_wait(database, old, 5 * AGEING_SECONDS)

    first = take(store, [Room(32, 0, 1), FULL, FULL, FULL])[1 + TOP]
    alone = take(store, [Room(200, 0, 1), FULL, FULL, FULL])[1 + TOP][len(urgent) - 28 :]

    assert Counter(hint.id in set(ids(old)) for hint in first) == {False: 28, True: 3}
    assert len(alone) == (100 - 28) // fair.RAISED_SHARE


def test_old_rows_alone_do_not_fill_the_list_of_the_urgent(store: Store, database: Database) -> None:
    old = new_jobs(20)
    store.submit(old)
    let_wait(database, old, 5 * AGEING_SECONDS)

    assert ids(take(store, [Room(16, 2, 1), FULL, FULL, FULL])[1 + TOP]) == ids(old[:2])


def test_a_row_whose_message_is_never_come_to_gets_another(store: Store, database: Database) -> None:
    stuck = new_jobs(2, priority=1)
    store.submit(stuck)
    take(store)
    let_wait(database, stuck, 1.5 * AGEING_SECONDS)
    rooms = [Room(16, 2, 1, True), Room(16, 2, 1, True), Room(16, 2, 1, False), FULL]
    assert take(store, rooms) == [[], [], [], [], []]  # announced only now

    let_wait(database, stuck[:1], 1.5 * AGEING_SECONDS, column="published_at")

    assert [ids(hints) for hints in take(store, rooms)] == [[], [], [stuck[0].id], [], []]
    assert take(store, rooms) == [[], [], [], [], []]


def test_what_a_worker_gave_back_goes_out_at_once_and_higher(store: Store, claims: Claims) -> None:
    held, others = new_jobs(3), new_jobs(3)
    store.submit(held)
    worker = new_worker(claims)
    claims.claim(worker, [job.id for job in held])
    store.submit(others)
    claims.release(worker)

    given_back, *lists = take(store, [FULL] * NUM_LISTS)

    assert [(hint.id, hint.priority) for hint in given_back] == [(job.id, 7) for job in held]
    assert lists == [[], [], [], []]


def test_without_lists_the_old_come_before_the_urgent(store: Store, database: Database) -> None:
    old, urgent = new_job(priority=0), new_job(priority=7)
    store.submit([old, urgent])
    assert ids(store.take_unpublished(1)) == [urgent.id]
    store.unpublish([urgent.id])
    let_wait(database, [old], 3 * AGEING_SECONDS)

    assert ids(store.take_unpublished(1, ageing_seconds=AGEING_SECONDS)) == [old.id]


def test_many_are_announced_again_in_steps(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.hints.CHUNK", 10)
    store.submit(new_jobs(35))
    store.take_unpublished(100)

    assert store.unpublish_queued(limit=15) == 15
    assert store.unpublish_queued() == 20
    assert len(store.take_unpublished(100)) == 35


@pytest.fixture
def plans(database: Database) -> Iterator[list[str]]:
    """The plan of each statement that looks for rows to announce."""
    lines: list[str] = []

    def explain(connection: Connection, cursor: Any, statement: str, parameters: object, *_: object) -> None:  # noqa: ANN401 (the driver's)
        if "published_at" in statement:
            is_postgresql = connection.dialect.name == "postgresql"
            cursor.execute(f"{'EXPLAIN' if is_postgresql else 'EXPLAIN QUERY PLAN'} {statement}", parameters)
            lines.extend(str(row) for row in cursor.fetchall())

    event.listen(database.engine, "before_cursor_execute", explain)
    yield lines
    event.remove(database.engine, "before_cursor_execute", explain)


def test_taking_walks_an_index_to_the_heads_of_the_lines(store: Store, database: Database, plans: list[str]) -> None:
    store.submit(new_jobs(3000, tenant="big"))
    store.submit(new_jobs(5, tenant="small"))
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
    plans.clear()

    take(store, [Room(4, 1, 1, True)] * LAST + [Room(4, 1, 1)])
    store.unannounced_models()

    assert any("tenant=? AND priority>?" in line or "priority > line" in line for line in plans)
    assert any("jobs_published" in line for line in plans)
    assert [line for line in plans if "Seq Scan on jobs" in line or line.endswith("'SCAN jobs')")] == []
