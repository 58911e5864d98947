"""A follower that is a thread of the test: the same messages and exchanges, and what goes wrong in it can be chosen."""

import socket
import subprocess
import threading
from collections.abc import Callable
from typing import Any, cast

from worker.engine.attention import NativeAttention, Pass
from worker.engine.cache import Cache
from worker.engine.parallel.follower import serve
from worker.engine.parallel.leader import Process
from worker.engine.parallel.link import Link
from worker.engine.transformer import Mix

FOLLOWER = "rank 1"


class ThreadProcess(threading.Thread):
    """What a Leader asks of a process."""

    pid = 0

    def poll(self) -> int | None:
        return None if self.is_alive() else 0

    def wait(self, timeout: float | None = None) -> int:
        self.join(timeout)
        if self.is_alive():
            raise subprocess.TimeoutExpired(self.name, timeout or 0.0)
        return 0

    def kill(self) -> None:
        raise AssertionError("a follower ends when it is hung up on")


def start_thread(rank: int) -> Process:
    """In place of `launch._start`."""
    here, there = socket.socketpair()
    thread = ThreadProcess(target=serve, args=(Link(there), rank), name=f"rank {rank}", daemon=True)
    thread.start()
    return Process(rank, cast(Any, thread), Link(here))


def is_follower() -> bool:
    """Whether this is the thread of rank 1."""
    return threading.current_thread().name == FOLLOWER


class Fault:
    """Raises an error on one rank, in the given ones of the calls made there since it was set."""

    def __init__(self, error: BaseException, *, on_follower: bool, calls: set[int]) -> None:
        self._error, self._on_follower, self._calls = error, on_follower, calls
        self._num_calls = self.num_raised = 0

    def strike(self) -> None:
        """Count a call, and raise where it is one of the chosen."""
        if is_follower() != self._on_follower:
            return
        self._num_calls += 1
        if self._num_calls in self._calls:
            self.num_raised += 1
            raise self._error


def break_attention(fault: Fault) -> Callable[[NativeAttention, Any, Pass], Mix]:
    """The compiled attention, with a fault where a layer's heads are to be mixed."""
    bind = NativeAttention.bind

    def broken(attention: NativeAttention, cache: Any, tokens: Pass) -> Mix:  # noqa: ANN401
        mix = bind(attention, cache, tokens)

        def mix_or_fail(index: int, *heads: Any) -> Any:  # noqa: ANN401
            fault.strike()
            return mix(index, *heads)

        return mix_or_fail

    return broken


def break_method(owner: type[Cache], name: str, fault: Fault) -> Callable[..., object]:
    """A method with a fault before it does anything."""
    method = getattr(owner, name)

    def broken(*arguments: Any, **options: Any) -> object:  # noqa: ANN401
        fault.strike()
        result: object = method(*arguments, **options)
        return result

    return broken
