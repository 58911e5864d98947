"""Which rows belong to which message, and when a message is done."""

from uuid import UUID

from tests.unit.worker.test_staging import row
from worker.deliveries import Delivery, Ledger

ONE, TWO, THREE = UUID(int=1), UUID(int=2), UUID(int=3)


def test_message_is_done_when_its_last_row_is_let_go() -> None:
    ledger, delivery = Ledger(), Delivery([ONE, TWO])
    assert ledger.take(delivery, 9) == [ONE, TWO]
    assert ledger.hold(delivery, [ONE, TWO], [row(1), row(2)]) == []
    assert ledger.let_go([ONE]) == []
    assert ledger.let_go([TWO]) == [delivery]
    assert len(ledger) == 0


def test_long_message_is_taken_in_portions() -> None:
    ledger, delivery = Ledger(), Delivery([ONE, TWO, THREE])
    assert ledger.take(delivery, 2) == [ONE, TWO]
    ledger.hold(delivery, [ONE, TWO], [row(1), row(2)])
    assert ledger.let_go([ONE, TWO]) == []
    assert ledger.take(delivery, 2) == [THREE]
    ledger.hold(delivery, [THREE], [row(3)])
    assert ledger.let_go([THREE]) == [delivery]


def test_message_whose_rows_others_have_is_done_at_once() -> None:
    ledger, delivery = Ledger(), Delivery([ONE])
    assert ledger.hold(delivery, ledger.take(delivery, 1), []) == [delivery]


def test_row_let_go_twice_counts_once() -> None:
    ledger, delivery = Ledger(), Delivery([ONE])
    ledger.hold(delivery, ledger.take(delivery, 1), [row(1)])
    assert ledger.let_go([ONE, ONE]) == [delivery]
    assert ledger.let_go([ONE]) == []


def test_unknown_row_is_none() -> None:
    assert Ledger().row(UUID(int=7)) is None


def test_acceptance_is_reported_once() -> None:
    reports: list[int] = []
    delivery = Delivery([ONE], on_accepted=lambda: reports.append(1))
    delivery.accepted()
    delivery.accepted()
    assert reports == [1]


def test_row_is_open_until_it_ends_is_let_go_or_is_claimed_anew() -> None:
    ledger, delivery, first = Ledger(), Delivery([ONE]), row(1)
    assert not ledger.is_open(first)
    ledger.hold(delivery, ledger.take(delivery, 1), [first])
    assert ledger.is_open(first)
    assert (ledger.end(first), ledger.end(first), ledger.end(row(2))) == (True, False, False)
    assert not ledger.is_open(first)
    ledger.let_go([ONE])
    again = row(1)
    ledger.hold(Delivery([]), [ONE], [again])
    assert (ledger.is_open(first), ledger.is_open(again)) == (False, True)


def test_former_claim_of_a_job_neither_ends_nor_lets_go_of_the_new_one() -> None:
    """A lost lease may leave a row behind here whose job this worker claims anew."""
    ledger, former, latter = Ledger(), Delivery([ONE]), Delivery([ONE])
    old, new = row(1), row(1)
    ledger.hold(former, ledger.take(former, 1), [old])
    ledger.end(old)
    assert ledger.hold(latter, ledger.take(latter, 1), [new]) == [former]
    assert ledger.is_open(new)
    assert not ledger.end(old)
    assert ledger.let_go_of([old]) == []
    assert ledger.row(ONE) is new
    assert ledger.let_go_of([new]) == [latter]
