"""Queues, priorities and chunks."""

from uuid import UUID

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


def test_chunks_hold_at_most_their_size() -> None:
    sizes = [len(message.ids) for message in chunk_messages((hint(n) for n in range(10)), size=4)]
    assert sizes == [4, 4, 2]


def test_lists_are_named_as_kombu_names_them() -> None:
    assert redis_lists("m") == ["generate.m", "generate.m\x06\x163", "generate.m\x06\x166", "generate.m\x06\x169"]
