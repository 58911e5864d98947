"""Rules of the store broken one at a time, for the state machine to notice. They are finer than
those of tests/faults/mutants.py.

As there, each is a function that patches this process.
"""

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

from models import batches, cancelling, deleting, idempotency, intake, leases, postgresql, sqlite, suspects, transitions
from tests.faults.mutants import rewrite

PATCHED = (batches, cancelling, deleting, idempotency, intake, leases, postgresql, sqlite, suspects, transitions)


@contextmanager
def broken(mutant: Callable[[], None]) -> Iterator[None]:
    """For the length of a block the rule does not hold."""
    before = [(module, dict(vars(module))) for module in PATCHED]
    try:
        mutant()
        yield
    finally:
        for module, names in before:
            vars(module).update(names)


def edit(module: ModuleType, name: str, old: str, new: str) -> None:
    """Replace a part of a function's text. A part that is not there is a mutant that breaks nothing: an error."""
    source = textwrap.dedent(inspect.getsource(getattr(module, name)))
    if old not in source:
        raise ValueError(f"{module.__name__}.{name} has no {old!r}")
    exec(compile(source.replace(old, new), module.__file__ or name, "exec"), vars(module))


def fence_without_attempt() -> None:
    """A worker that holds a row again writes what became of its first attempt."""
    for module in (postgresql, sqlite):
        rewrite(module, "_FINISH", (" AND jobs.attempt = outcome.attempt", ""))


def fence_without_owner() -> None:
    """A worker writes what was taken from it, as long as nobody else began it."""
    for module in (postgresql, sqlite):
        rewrite(module, "_FINISH", ("jobs.owner = :worker AND ", ""))


def claim_of_whatever_it_is() -> None:
    """A claim does not ask whether the row waits."""
    rewrite(postgresql, "_CLAIM", ("job.status || '' = 'queued' AND ", ""))
    edit(sqlite, "claim", ', jobs.c.status.concat("") == Status.QUEUED', "")


def claim_without_lease() -> None:
    """A worker claims after its lease ran out: nobody will take the rows from it."""
    rewrite(postgresql, "_CLAIM", (" AND lease_until > now()", ""))
    edit(sqlite, "claim", ", workers.c.lease_until > now()", "")


def claim_of_late_ones() -> None:
    """A claim does not ask for the deadline."""
    rewrite(postgresql, "_CLAIM", ("(job.deadline IS NULL OR job.deadline > now())", "true"))
    edit(sqlite, "claim", "jobs.c.deadline.is_(None), ", "jobs.c.deadline.is_(None), jobs.c.deadline.is_not(None), ")


def claim_of_every_level() -> None:
    """Suspects run among the innocent."""
    rewrite(postgresql, "_CLAIM", ("job.level = :level", ":level >= 0"))
    edit(sqlite, "claim", "jobs.c.level == int(level)", "exists(lease)")


def heartbeat_after_the_end() -> None:
    """A lease that ran out is renewed as if it had not."""
    edit(leases, "renew", ", workers.c.lease_until > now()", "")


def cancel_of_final_ones() -> None:
    """Cancelling does not ask whether the job is final."""
    edit(transitions, "cancel", ", jobs.c.status.in_(sorted(starts_of(Status.CANCELLED)))", "")


def cancel_forgotten_by_the_keeper() -> None:
    """What is taken from a dead worker is queued again although it was cancelled."""
    edit(transitions, "_give_back", "(jobs.c.cancel_requested, Status.CANCELLED, None),", "")


def crash_without_blame() -> None:
    """A crash counts as an expired lease."""
    transitions.take_from_crashed = transitions.take_from_lost


def expiry_of_running_ones() -> None:
    """A deadline takes a row out of its owner's hands."""
    edit(transitions, "expire_queued", "_IS_QUEUED, ", "")


def expiry_uncounted() -> None:
    """Batches do not count some of the rows that end."""
    edit(batches, "count", "row.status in FINAL", 'row.status in FINAL - {"expired"}')


def deletion_of_unfinished_ones() -> None:
    """A job is deleted whatever its status."""
    edit(deleting, "delete_job", " & jobs.c.status.in_(sorted(FINAL))", "")


def any_body_for_a_key() -> None:
    """A key finds what it was first used for, whatever is asked for now."""
    edit(idempotency, "_found", "!= (one.once.path, one.once.body_hash)", "== ()")


MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (
        fence_without_attempt,
        fence_without_owner,
        claim_of_whatever_it_is,
        claim_without_lease,
        cancel_of_final_ones,
    )
}
MORE_MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (
        claim_of_late_ones,
        claim_of_every_level,
        heartbeat_after_the_end,
        cancel_forgotten_by_the_keeper,
        crash_without_blame,
        expiry_of_running_ones,
        expiry_uncounted,
        deletion_of_unfinished_ones,
        any_body_for_a_key,
    )
}
