"""Turns: fresh load and suspects, neither of which waits for ever."""

from worker.company import LOOK_SECONDS, Turns


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def take(turns: Turns) -> str:
    """One claim where both wait all the time."""
    if turns.suspects_are_due:
        turns.suspects_claimed()
        return "S"
    turns.fresh_claimed()
    return "f"


def test_every_fourth_claim_is_for_suspects_under_constant_load() -> None:
    turns = Turns(Clock())
    assert "".join(take(turns) for _ in range(14)) == "fSfffSfffSfffS"


def test_a_worker_that_suspects_crash_at_every_start_gets_on_with_the_rest() -> None:
    assert [take(Turns(Clock())) for _ in range(3)] == ["f"] * 3


def test_suspects_come_at_once_where_nothing_else_waits() -> None:
    turns = Turns(Clock())
    take(turns), take(turns)
    assert not turns.suspects_are_due
    turns.nothing_fresh()
    assert turns.suspects_are_due


def test_where_there_are_no_suspects_nobody_looks_for_them_at_every_turn() -> None:
    clock = Clock()
    turns = Turns(clock)
    turns.nothing_fresh()
    turns.no_suspects()
    turns.nothing_fresh()
    assert not turns.suspects_are_due
    clock.now += LOOK_SECONDS
    assert turns.suspects_are_due


def test_a_look_in_vain_costs_fresh_load_no_turn() -> None:
    clock = Clock()
    turns = Turns(clock)
    take(turns)
    assert turns.suspects_are_due
    turns.no_suspects()
    clock.now += LOOK_SECONDS
    assert "".join(take(turns) for _ in range(4)) == "fffS"
