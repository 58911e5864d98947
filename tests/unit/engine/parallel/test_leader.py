"""One message to each follower and one answer: in step with each other, or lost for good."""

import socket
from collections.abc import Callable

import pytest

from tests.unit.engine.parallel.threads import ThreadProcess
from worker.engine import EngineError
from worker.engine.parallel.leader import Leader, Process
from worker.engine.parallel.link import Link, Message
from worker.engine.parallel.ranks import RankLost


def lead(*answers: Callable[[Message], Message | None]) -> Leader:
    """A leader of followers that answer so; None: not at all, and no more."""
    return Leader([_follow(rank, answer) for rank, answer in enumerate(answers, 1)])


def _follow(rank: int, answer: Callable[[Message], Message | None]) -> Process:
    here, there = (Link(end) for end in socket.socketpair())

    def run() -> None:
        try:
            while (message := answer(there.receive())) is not None:
                there.send(message)
            there.receive()  # until it is hung up on
        except RankLost:
            return
        finally:
            there.close()

    thread = ThreadProcess(target=run, daemon=True)
    thread.start()
    return Process(rank, thread, here)  # type: ignore[arg-type]


def test_all_are_told_and_the_result_is_rank_0s() -> None:
    heard: list[Message] = []

    def answer(message: Message) -> Message:
        heard.append(message)
        return {}

    leader = lead(answer, answer)

    assert leader.call("build", lambda: 7, rows=3) == 7
    assert heard == [{"call": "build", "rows": 3}] * 2


def test_own_error_leaves_all_in_step() -> None:
    leader = lead(lambda message: {})

    with pytest.raises(ZeroDivisionError):
        leader.call("forward", lambda: 1 // 0)
    assert leader.call("forward", lambda: 1) == 1


@pytest.mark.parametrize(("memory", "kind"), [(True, MemoryError), (False, EngineError)])
def test_error_of_a_follower_is_raised_by_its_kind(memory: bool, kind: type[Exception]) -> None:
    answers = iter([{"fault": "no luck", "memory": memory}, {}])
    leader = lead(lambda message: {}, lambda message: next(answers))

    with pytest.raises(kind, match="rank 2 of the model: no luck"):
        leader.call("forward", lambda: 1)
    assert leader.call("forward", lambda: 1) == 1


def test_silent_follower_is_lost_and_told_nothing_more() -> None:
    leader = lead(lambda message: None)

    with pytest.raises(EngineError, match=r"loaded again.*not answered for 0\.1 s"):
        leader.call("forward", lambda: 1, timeout_seconds=0.1)
    with pytest.raises(EngineError, match="loaded again"):
        leader.call("forward", lambda: pytest.fail("computed without the others"))
    leader.tell("clear", slot=1)


def test_interrupt_while_waiting_for_an_answer_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer that was not read would be taken for that to the next message."""
    follower = _follow(1, lambda message: {})
    leader = Leader([follower])

    def interrupted(timeout_seconds: float | None) -> Message:
        raise KeyboardInterrupt

    monkeypatch.setattr(follower.link, "receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        leader.call("forward", lambda: 1)
    monkeypatch.undo()
    with pytest.raises(EngineError, match="KeyboardInterrupt"):
        leader.call("forward", lambda: 1)
