"""Queues, priorities and chunks."""

from uuid import UUID

import pytest

from models.messages import chunk_messages, redis_lists, redis_priority
from models.records import Hint


def hint(number: int, *, model: str = "m", priority: int = 4, suspicion: int = 0) -> Hint:
    return Hint(UUID(int=number), model, priority, suspicion)


def test_our_soonest_is_redis_first() -> None:
    assert (redis_priority(9), redis_priority(0)) == (0, 9)


def test_chunks_never_mix_models_priorities_or_suspicion() -> None:
    hints = [hint(1), hint(2, model="n"), hint(3, priority=9), hint(4, suspicion=1), hint(5)]
    messages = list(chunk_messages(hints))
    assert [(m.queue, m.redis_priority, [UUID(text).int for text in m.ids]) for m in messages] == [
        ("generate.m", 0, [3]),
        ("generate.m", 5, [1, 5]),
        ("generate.m", 5, [4]),
        ("generate.n", 5, [2]),
    ]


@pytest.mark.parametrize(("num_jobs", "longest"), [(10, 10), (100, 32), (6400, 100), (100_000, 256)])
def test_long_submissions_travel_in_long_messages(num_jobs: int, longest: int) -> None:
    messages = list(chunk_messages(hint(number) for number in range(num_jobs)))
    assert max(len(message.ids) for message in messages) == longest
    assert sum(len(message.ids) for message in messages) == num_jobs


def test_lists_are_named_as_kombu_names_them() -> None:
    assert redis_lists("m") == ["generate.m", "generate.m\x06\x163", "generate.m\x06\x166", "generate.m\x06\x169"]
