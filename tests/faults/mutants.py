"""Rules of the product broken on purpose, by name: each a function that patches this process.

A rule whose mutant leaves every suite green is not tested. docs/reliability.md says which suite turns red by which.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from sqlalchemy import TextClause, TextualSelect, text, true

from tests.faults.patching import wrap

LATE_SECONDS = 0.3
OWNER_AND_ATTEMPT = " AND jobs.owner = :worker AND jobs.attempt = outcome.attempt  -- the fence"


def rewrite(module: Any, name: str, *replacements: tuple[str, str]) -> None:  # noqa: ANN401 (a module)
    """Replace parts of a statement. A part that is not there is a mutant that breaks nothing: an error."""
    statement: TextClause | TextualSelect = getattr(module, name)
    columns = statement.selected_columns if isinstance(statement, TextualSelect) else ()
    changed = str(statement.element if isinstance(statement, TextualSelect) else statement)
    for old, new in replacements:
        if old not in changed:
            raise ValueError(f"{module.__name__}.{name} has no {old!r}")
        changed = changed.replace(old, new)
    setattr(module, name, text(changed).columns(*columns) if columns else text(changed))


def no_fence() -> None:
    """Whoever has a result writes it, whether the row is still its own or not."""
    from models import postgresql, sqlite

    once = "AND finished.status = 'completed'"
    rewrite(postgresql, "_FINISH", (OWNER_AND_ATTEMPT, ""), (once, f"{once} ON CONFLICT DO NOTHING"))
    rewrite(sqlite, "_FINISH", (OWNER_AND_ATTEMPT, ""))


def ack_before_commit() -> None:
    """The service answers that a job is stored, and commits it a moment later."""
    from models.store import Store
    from models.submitting import Submission, store_group

    def make(_: Callable[..., Any]) -> Callable[..., Any]:
        def outer(self: Store, group: Sequence[Submission]) -> Sequence[Any]:
            written: Future[Sequence[Any]] = Future()

            def store() -> None:
                try:
                    with self.database.transaction() as connection:
                        written.set_result(store_group(connection, group))
                        time.sleep(LATE_SECONDS)
                except Exception as error:
                    if not written.done():
                        written.set_exception(error)

            threading.Thread(target=store, daemon=True).start()
            return written.result()

        return outer

    wrap(Store, "submit_group", make)


def reaper_ignores_expiry() -> None:
    """Rows are taken from every worker at every sweep, whether its lease lasts or not."""
    from models import leases

    def make(lock: Callable[..., Any]) -> Callable[..., Any]:
        return lambda connection, _: lock(connection, true())

    wrap(leases, "lock", make)


def reaper_sleeps() -> None:
    """Rows of a worker whose lease ran out stay its own."""
    from models.claims import Claims
    from models.records import Reaped

    wrap(Claims, "reap", lambda _: lambda self: Reaped())


def claim_without_lock() -> None:
    """A worker looks which rows are queued, and then takes them; others may have come between."""
    from models import postgresql

    rewrite(
        postgresql,
        "_CLAIM",
        (" FOR UPDATE SKIP LOCKED", ""),
        ("FROM me CROSS JOIN", "FROM me CROSS JOIN (SELECT pg_sleep(0.1)) AS meanwhile CROSS JOIN"),
    )


def blame_on_expiry() -> None:
    """A worker whose lease ran out counts as crashed, and so do its rows as suspects."""
    from models import transitions

    wrap(transitions, "take_from_lost", lambda _: transitions.take_from_crashed)


def cancel_not_in_where() -> None:
    """A result is written whether its job was cancelled or not."""
    from models import postgresql, sqlite

    held = ("owner = NULL, finished_at", "cancel_requested = false, owner = NULL, finished_at")
    chosen = "CASE WHEN jobs.cancel_requested THEN 'cancelled' ELSE outcome.status END"
    rewrite(postgresql, "_FINISH", (chosen, "outcome.status"), held)
    rewrite(sqlite, "_FINISH", ("iif(jobs.cancel_requested, 'cancelled', outcome.status)", "outcome.status"), held)


def heartbeat_without_progress() -> None:
    """The lease is renewed, whatever the engine does."""
    from worker.decoder import Decoder

    Decoder.stalled_seconds = property(lambda self: 0.0)  # type: ignore[assignment, method-assign]


def hint_loss_unrepaired() -> None:
    """Nobody looks whether Redis has lost messages."""
    from worker.hints import HintRepair

    wrap(HintRepair, "check", lambda _: lambda self, *, num_waiting: 0)


MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (
        no_fence,
        ack_before_commit,
        reaper_ignores_expiry,
        reaper_sleeps,
        claim_without_lock,
        blame_on_expiry,
        cancel_not_in_where,
        heartbeat_without_progress,
        hint_loss_unrepaired,
    )
}
