"""What must hold from one moment to the next whatever happened between, told by the rows alone."""

from collections import Counter
from collections.abc import Callable, Set
from uuid import UUID

from models.status import FINAL, Status, is_allowed
from tests.integration.store.machine.seen import Row, Seen


def check(before: Seen, after: Seen, *, is_crash: bool, deleted: Set[UUID], num_steps: int) -> None:
    """Raise AssertionError where a law is broken. `num_steps`: arrows that a row may have gone along."""
    for law in (_owners_are_known, _completions_are_of_completed, _counts_agree):
        law(after)
    _nothing_disappears(before, after, deleted)
    for id, now in after.rows.items():
        was = before.rows.get(id)
        _follows_arrows(None if was is None else was.status, now.status, num_steps)
        if was is not None:
            _stays_final(was, now)
            _is_blamed_for_crashes_only(was, now, is_crash=is_crash)
            assert before.finished[id] in (None, after.finished[id]), "the time of a final job changed"
            assert not (was.cancel_requested and now.status is Status.COMPLETED), "an accepted cancel completed"


def _owners_are_known(seen: Seen) -> None:
    for row in seen.rows.values():
        assert (row.status is Status.IN_PROGRESS) == (row.owner is not None)
        assert row.owner is None or row.owner in seen.workers, "a row belongs to a worker that nobody knows"


def _completions_are_of_completed(seen: Seen) -> None:
    assert seen.num_orphans == 0
    for row in seen.rows.values():
        assert bool(row.texts) == (row.status is Status.COMPLETED)


def _counts_agree(seen: Seen) -> None:
    for id, batch in seen.batches.items():
        by_status = Counter(row.status for row in seen.rows.values() if row.batch == id)
        assert batch.num_total == by_status.total()
        for status in FINAL:
            assert getattr(batch, f"num_{status}") == by_status[status]


def _nothing_disappears(before: Seen, after: Seen, deleted: Set[UUID]) -> None:
    assert before.rows.keys() - after.rows.keys() == deleted
    assert all(before.rows[id].status in FINAL for id in deleted)


def _stays_final(was: Row, now: Row) -> None:
    if was.status in FINAL:
        kept: Callable[[Row], object] = lambda row: (row.status, row.attempt, row.error, row.texts)  # noqa: E731
        assert kept(was) == kept(now), "a final job changed"


def _is_blamed_for_crashes_only(was: Row, now: Row, *, is_crash: bool) -> None:
    blame = now.suspicion - was.suspicion
    assert blame == 0 or (is_crash and blame == 1 and was.owner is not None), "blame without a crash"


def _follows_arrows(start: Status | None, end: Status, num_steps: int) -> None:
    """Along arrows of models/status.py."""
    reached = {start}
    for _ in range(num_steps):
        reached |= {status for status in Status if any(is_allowed(one, status) for one in reached)}
    assert end in reached, f"no arrow leads from {start} to {end}"
