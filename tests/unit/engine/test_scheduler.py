"""Admission and compaction, without a tensor."""

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from worker.engine.cache import Need
from worker.engine.scheduler import CPU_PACE, MAX_HELD_STEPS, Scheduler, pace_of
from worker.engine.sequence import Sequence
from worker.engine.types import SamplingParams


def make(request_id: str, num_prompt: int = 3, max_new: int = 5) -> Sequence:
    return Sequence(request_id, [1] * num_prompt, SamplingParams(), max_new, ())


class Rooms:
    """Rows as long as the longest of them, so many as `fits` says."""

    def __init__(self, fits: Callable[[int, int], bool], live: Items[Need]) -> None:
        self.says, self.taken = fits, [*live]

    def fits(self, needs: Items[Need]) -> bool:
        joined = [*self.taken, *needs]
        return self.says(len(joined), max(need.max_length for need in joined))

    def take(self, needs: Items[Need]) -> None:
        self.taken += needs


def make_scheduler(max_rows: int, fits: Callable[[int, int], bool] = lambda rows, tokens: True) -> Scheduler:
    return Scheduler(
        max_rows, lambda live, optimistic: Rooms(fits, live), lambda sequence: len(sequence.prompt_token_ids)
    )


def ids(sequences: list[Sequence]) -> list[str]:
    return [sequence.request_id for sequence in sequences]


def test_admits_in_order_of_arrival_longest_prompt_first() -> None:
    scheduler = make_scheduler(3)
    for request_id, length in (("a", 2), ("b", 9), ("c", 5), ("d", 7)):
        scheduler.add([make(request_id, length)])
    assert ids(scheduler.admit()) == ["b", "c", "a"]
    assert ids(list(scheduler.waiting)) == ["d"]


def test_few_freed_rows_wait_for_others_but_not_for_ever() -> None:
    scheduler = make_scheduler(32)
    for number in range(40):
        scheduler.add([make(str(number))])
    assert len(scheduler.admit()) == 32
    scheduler.remove({0})
    assert [len(scheduler.admit()) for _ in range(MAX_HELD_STEPS + 1)] == [0] * MAX_HELD_STEPS + [1]
    scheduler.remove({0, 1})
    assert len(scheduler.admit()) == 2


def test_last_waiting_sequence_is_not_held_back() -> None:
    scheduler = make_scheduler(32)
    for number in range(33):
        scheduler.add([make(str(number))])
    scheduler.admit()
    scheduler.remove({0})
    assert ids(scheduler.admit()) == ["32"]


def test_prefill_limit_holds_but_never_blocks() -> None:
    scheduler = make_scheduler(9)
    for request_id, length in (("a", CPU_PACE.admit_tokens * 2), ("b", 5), ("c", CPU_PACE.admit_tokens)):
        scheduler.add([make(request_id, length)])
    assert [ids(scheduler.admit()) for _ in range(4)] == [["a"], ["b"], ["c"], []]


def test_no_more_is_wanted_than_one_step_admits() -> None:
    scheduler = make_scheduler(32)
    scheduler.add([make(str(number), num_prompt=CPU_PACE.admit_tokens // 4) for number in range(4)])
    assert scheduler.num_wanted == 32 // CPU_PACE.refill_share
    scheduler.add([make("4", num_prompt=1)])
    assert scheduler.num_wanted == 0
    scheduler.admit()
    assert scheduler.num_wanted == 32 // CPU_PACE.refill_share


def test_a_gpu_prefills_in_bursts() -> None:
    scheduler = make_scheduler(16)
    scheduler.pace = pace_of("cuda")
    for number in range(40):
        scheduler.add([make(str(number), CPU_PACE.admit_tokens)])
    assert len(scheduler.admit()) == 8
    assert len(scheduler.admit()) == 8
    scheduler.remove({0})
    assert scheduler.admit() == []
    scheduler.remove({0})
    assert len(scheduler.admit()) == 2


def test_once_rows_were_taken_back_only_what_fits_to_its_end_is_admitted() -> None:
    """Until a row ends; one that leaves otherwise makes room for those that go on."""
    asked: list[bool] = []

    def room(live: Items[Need], *, optimistic: bool) -> Rooms:
        asked.append(optimistic)
        return Rooms(lambda rows, tokens: True, live)

    scheduler = Scheduler(9, room, lambda sequence: 1)
    scheduler.live = [make("a"), make("b"), make("c")]
    scheduler.reserving = True
    scheduler.live[2].cancelled = True
    scheduler.admit()
    scheduler.remove({2})
    scheduler.admit()
    scheduler.remove(set())
    scheduler.admit()
    scheduler.remove({0})
    scheduler.admit()
    assert asked == [False, False, False, True]


def test_each_row_asks_for_its_own_and_answers_share_their_prompt() -> None:
    asked: list[Need] = []

    def fits(rows: int, tokens: int) -> bool:
        return True

    class Listening(Rooms):
        def take(self, needs: Items[Need]) -> None:
            asked.extend(needs)

    scheduler = Scheduler(9, lambda live, optimistic: Listening(fits, live), lambda sequence: 1)
    scheduler.add([make("a", 6, 5), make("a", 6, 5)])
    scheduler.add(beams("b", 3))
    scheduler.admit()
    assert asked == [Need(6, 10), Need(6, 10, shared=6), Need(3, 7), *[Need(3, 7, shared=3)] * 2]


def test_budget_holds_rows_back() -> None:
    scheduler = make_scheduler(9, lambda rows, tokens: rows <= 1 or rows * tokens <= 30)
    for request_id in "abcd":
        scheduler.add([make(request_id, 6, 5)])
    scheduler.add([make("long", 60, 5)])
    assert ids(scheduler.admit()) == ["a", "b", "c"]
    scheduler.remove({0, 1, 2})
    assert ids(scheduler.admit()) == ["d"]
    scheduler.remove({0})
    assert ids(scheduler.admit()) == ["long"]


@given(st.integers(0, 12), st.data())
def test_remove_leaves_no_holes(num_rows: int, data: st.DataObject) -> None:
    scheduler = make_scheduler(99)
    scheduler.live = [make(str(row)) for row in range(num_rows)]
    rows = data.draw(st.sets(st.integers(0, num_rows - 1)) if num_rows else st.just(set[int]()))
    slots = ids(scheduler.live)
    for dst, src in scheduler.remove(rows):
        slots[dst] = slots[src]
    assert slots[: len(scheduler.live)] == ids(scheduler.live)
    assert sorted(map(int, ids(scheduler.live))) == sorted(set(range(num_rows)) - rows)


def beams(request_id: str, num: int) -> list[Sequence]:
    return [replace(make(request_id), answer=answer, num_beams=num) for answer in range(num)]


def test_beams_of_a_request_are_admitted_together() -> None:
    scheduler = make_scheduler(4)
    scheduler.add(beams("a", 3))
    scheduler.add(beams("b", 2))
    assert ids(scheduler.admit()) == ["a"] * 3
    assert scheduler.admit() == []  # one row is free, and two are needed
    scheduler.remove({0, 1, 2})
    assert ids(scheduler.admit()) == ["b"] * 2


def test_a_learned_limit_holds_rows_back_but_never_all() -> None:
    scheduler = make_scheduler(8)
    scheduler.limit = 2
    for request_id in "abc":
        scheduler.add([make(request_id)])
    scheduler.add(beams("d", 3))
    assert ids(scheduler.admit()) == ["a", "b"]
    assert scheduler.admit() == []
    scheduler.remove({0, 1})
    assert ids(scheduler.admit()) == ["c"]
    scheduler.remove({0})
    assert ids(scheduler.admit()) == ["d"] * 3  # more than the limit, but they cannot run but together


def test_requeued_sequences_go_first() -> None:
    scheduler = make_scheduler(1)
    for request_id in "cd":
        scheduler.add([make(request_id)])
    scheduler.requeue([make("a"), make("b")])
    assert ids(list(scheduler.waiting)) == ["a", "b", "c", "d"]


def test_beams_are_admitted_to_an_empty_engine_whatever_the_cache_says() -> None:
    """As one row is: nothing that ends would make more room."""
    scheduler = make_scheduler(4, fits=lambda rows, tokens: rows <= 1)
    scheduler.add(beams("a", 3))
    scheduler.add([make("b")])
    assert ids(scheduler.admit()) == ["a"] * 3
