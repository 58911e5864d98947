"""The law of the queue under whatever order of steps hypothesis finds, against a plain model, on both databases; and
that the machine notices when a rule is broken.
"""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from models.database import Database
from tests.faults.mutants import MUTANTS as COARSE
from tests.integration.store.machine.machine import StoreMachine
from tests.integration.store.machine.mutants import MORE_MUTANTS, broken
from tests.integration.store.machine.mutants import MUTANTS as FINE
from tests.integration.store.machine.overlap import Overlap

NUM_EXAMPLES, NUM_STEPS = {"sqlite": 100, "postgresql": 40}, 20  # as many seconds on either
OF_THE_STORE = ("no_fence", "reaper_ignores_expiry", "blame_on_expiry", "cancel_not_in_where")
MUTANTS = FINE | {name: COARSE[name] for name in OF_THE_STORE}
pytestmark = pytest.mark.timeout(600)  # seconds on a machine that is busy with all the others; alone it takes ten
ON_POSTGRESQL = {"claim_without_lock": COARSE["claim_without_lock"]}  # SQLite has one writer, and no locks of rows


def run(store: Database, max_examples: int, **how: Any) -> None:  # noqa: ANN401 - hypothesis' settings
    """Run the machine. Unless told otherwise the examples are the same each time."""

    class OnDatabase(StoreMachine):
        pass

    hurry(store)
    OnDatabase.database, OnDatabase.overlap = store, Overlap(store)
    examples = settings(
        max_examples=max_examples,
        **{"derandomize": True, "stateful_step_count": NUM_STEPS} | how,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(OnDatabase, settings=examples)
    finally:
        OnDatabase.overlap.close()


def hurry(database: Database) -> None:
    """SQLite need not wait for the disk after each of some thousand transactions."""
    if database.dialect == "sqlite":
        event.listen(database.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))


def test_the_law_holds(database: Database) -> None:
    run(database, NUM_EXAMPLES[database.dialect])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_law_holds_whatever_the_seed(database: Database) -> None:
    run(database, 2000, derandomize=False, database=None, stateful_step_count=50)


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_the_machine_notices(database: Database, mutant: Callable[[], None]) -> None:
    notices(database, mutant)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MORE_MUTANTS.values(), ids=MORE_MUTANTS)
def test_the_machine_notices_more(database: Database, mutant: Callable[[], None]) -> None:
    notices(database, mutant)


@pytest.mark.parametrize("mutant", ON_POSTGRESQL.values(), ids=ON_POSTGRESQL)
def test_the_machine_notices_on_postgresql(postgresql_url: str, mutant: Callable[[], None]) -> None:
    notices(Database(postgresql_url), mutant)


def notices(database: Database, mutant: Callable[[], None]) -> None:
    """A comparison fails, or a CHECK of the tables."""
    with broken(mutant), pytest.raises((AssertionError, IntegrityError)):
        run(database, 300, phases=[Phase.generate])
