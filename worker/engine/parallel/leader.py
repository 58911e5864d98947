"""Rank 0's hold on the processes that follow it: for all that ranks do together, a message to each and its answer."""

import subprocess
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from worker.engine.parallel.link import Link, Message
from worker.engine.parallel.ranks import EXCHANGE_SECONDS, RankLost
from worker.engine.types import EngineError

T = TypeVar("T")

_END_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Process:
    """A follower, and the way to it."""

    rank: int
    process: "subprocess.Popen[bytes]"
    link: Link


class Leader:
    """The followers of one model. They end when nobody holds this any more; where one is lost, all are."""

    def __init__(self, followers: list[Process]) -> None:
        self._followers = followers
        self._lost: str | None = None
        self.end = weakref.finalize(self, _end, followers)

    def call(
        self,
        name: str,
        run: Callable[[], T],
        *,
        timeout_seconds: float | None = EXCHANGE_SECONDS,
        **arguments: Any,  # noqa: ANN401 (whatever JSON holds)
    ) -> T:
        """Have all ranks do something, this one by `run`; gives its result once all have done it.

        Raises what `run` raises, MemoryError where another rank had not enough, EngineError where one failed otherwise
        or was lost, now or before.
        """
        if self._lost is not None:
            raise EngineError(self._lost)
        try:
            result, error, answers = self._do_together({"call": name, **arguments}, run, timeout_seconds)
        except BaseException as cause:  # an answer not read would be taken for the next one
            self._give_up(cause)
            if isinstance(cause, RankLost):
                raise EngineError(self._lost) from cause
            raise
        if error is not None:
            raise error
        for follower, answer in zip(self._followers, answers, strict=True):
            _check(follower.rank, answer)
        return cast(T, result)

    def tell(self, name: str, **arguments: Any) -> None:  # noqa: ANN401
        """Have the others do what this rank has done already. Raises as `call` does.

        Once a rank is lost there is nobody to tell, and nothing comes of it: whatever is computed next raises.
        """
        if self._lost is None:
            self.call(name, lambda: None, **arguments)

    def _do_together(
        self, message: Message, run: Callable[[], T], timeout_seconds: float | None
    ) -> tuple[T | None, BaseException | None, list[Message]]:
        for follower in self._followers:
            follower.link.send(message)
        result: T | None = None
        error: BaseException | None = None
        try:
            result = run()
        except RankLost:
            raise
        except BaseException as raised:
            error = raised
        return result, error, [follower.link.receive(timeout_seconds) for follower in self._followers]

    def _give_up(self, cause: BaseException) -> None:
        for follower in self._followers:
            follower.link.close()
        ended = [f"rank {follower.rank} ended with {code}" for follower in self._followers if (code := _code(follower))]
        self._lost = f"the model must be loaded again: {', '.join(ended) or str(cause) or type(cause).__name__}"
        self.end()


def _code(follower: Process) -> int | None:
    """Exit code of one that has died; the kernel closes what it held a little before it can be waited for."""
    try:
        return follower.process.wait(0.5)
    except subprocess.TimeoutExpired:
        return None


def _check(rank: int, answer: Message) -> None:
    if not answer:
        return
    if answer["memory"]:
        raise MemoryError(f"rank {rank} of the model: {answer['fault']}")
    raise EngineError(f"rank {rank} of the model: {answer['fault']}")


def _end(followers: list[Process]) -> None:
    """Hang up, and see to it that no follower stays."""
    for follower in followers:
        follower.link.close()
    for follower in followers:
        try:
            follower.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            follower.process.kill()
            follower.process.wait()
