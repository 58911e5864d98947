"""The arrows between statuses, against design.md's table; tests/integration/store takes each of them."""

from itertools import product

import pytest

from models.status import ARROWS, FINAL, FINAL_BATCH, UNFINISHED, BatchStatus, Status, is_allowed, starts_of

ALLOWED = {
    (None, Status.QUEUED),
    (None, Status.FAILED),
    (Status.QUEUED, Status.IN_PROGRESS),
    (Status.QUEUED, Status.CANCELLED),
    (Status.QUEUED, Status.EXPIRED),
    (Status.IN_PROGRESS, Status.QUEUED),
    (Status.IN_PROGRESS, Status.COMPLETED),
    (Status.IN_PROGRESS, Status.FAILED),
    (Status.IN_PROGRESS, Status.CANCELLED),
    (Status.IN_PROGRESS, Status.EXPIRED),
}


@pytest.mark.parametrize(("start", "end"), list(product([None, *Status], Status)))
def test_an_arrow_is_allowed_or_forbidden_as_the_design_says(start: Status | None, end: Status) -> None:
    assert is_allowed(start, end) == ((start, end) in ALLOWED)


def test_nothing_leaves_a_final_status() -> None:
    assert not any(arrow.start in FINAL for arrow in ARROWS)
    assert set(Status) == FINAL | UNFINISHED


def test_starts_of_are_the_guards_of_a_write() -> None:
    assert starts_of(Status.COMPLETED) == {Status.IN_PROGRESS}
    assert starts_of(Status.CANCELLED) == UNFINISHED


def test_every_arrow_says_who_and_when() -> None:
    assert all(arrow.by and arrow.when for arrow in ARROWS)


def test_a_final_batch_status_is_one_of_openais() -> None:
    assert set(BatchStatus) > FINAL_BATCH
