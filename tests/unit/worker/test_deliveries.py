"""Which rows belong to which message, and when a message is done."""

from uuid import UUID

from tests.unit.worker.test_staging import row
from worker.deliveries import Delivery, Ledger


def test_message_is_done_when_its_last_row_is_let_go() -> None:
    ledger, delivery = Ledger(), Delivery([UUID(int=1), UUID(int=2)])
    ledger.hold(row(1), delivery)
    ledger.hold(row(2), delivery)
    assert ledger.let_go([UUID(int=1)]) == []
    assert ledger.let_go([UUID(int=2)]) == [delivery]
    assert len(ledger) == 0


def test_row_let_go_twice_counts_once() -> None:
    ledger, delivery = Ledger(), Delivery([UUID(int=1)])
    ledger.hold(row(1), delivery)
    assert ledger.let_go([UUID(int=1), UUID(int=1)]) == [delivery]
    assert ledger.let_go([UUID(int=1)]) == []


def test_unknown_row_is_none() -> None:
    assert Ledger().row(UUID(int=7)) is None
