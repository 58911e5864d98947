"""A process that holds one rank of a model: python -m worker.engine.parallel.follower SOCKET PARENT RANK.

It does what rank 0 does and knows no requests. Every message is answered by one, empty or with what failed.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from worker.engine.cache import Beginning
from worker.engine.faults import is_allocation_failure
from worker.engine.loader import Model, load_model
from worker.engine.parallel.link import Link, Message
from worker.engine.parallel.ranks import RankLost, Ranks, device_of, open_store
from worker.engine.parallel.runner import RankRunner, count_values, unpack
from worker.engine.parallel.sharding import Share

_WATCH_SECONDS = 0.5


class Follower:
    """One rank's part of the model, of the cache, and of what is kept of prompts' beginnings."""

    _model: Model
    _ranks: Ranks
    _runner: RankRunner

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._kept: dict[int, Beginning] = {}
        self._handlers: dict[str, Callable[..., None]] = {
            "load": self._load,
            "connect": self._connect,
            "build": self._build,
            "forward": self._forward,
            "change": self._change,
            "limit": self._limit,
            "keep": self._keep,
            "fill": self._fill,
            "drop": self._drop,
        }

    def obey(self, message: Message) -> Message:
        """Carry out a message; gives the answer. Raises RankLost."""
        try:
            self._handlers[message.pop("call")](**message)
        except RankLost:
            raise
        except Exception as error:  # rank 0 decides what comes of it, as of its own
            return {"fault": str(error) or type(error).__name__, "memory": is_allocation_failure(error)}
        return {}

    def _load(self, path: str, device: str, dtype: str, num_ranks: int, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        share = Share(self._rank, num_ranks)
        self._model = load_model(Path(path), device=device_of(device, share), dtype=dtype, share=share)
        if self._model.device.type == "cuda":
            torch.cuda.set_device(self._model.device)

    def _connect(self, port: int, num_ranks: int) -> None:
        share = Share(self._rank, num_ranks)
        self._ranks = Ranks(open_store(port, share), share, self._model.device)

    def _build(self, sizes: Message) -> None:
        self._runner = RankRunner(self._model, self._ranks, **sizes)

    def _forward(self, tokens: Message) -> None:
        self._runner.run_pass(unpack(tokens, self._ranks.hear(count_values(tokens))))

    def _change(self, method: str, arguments: list[object], options: dict[str, int]) -> None:
        getattr(self._runner.cache, method)(*arguments, **options)

    def _limit(self, num_tokens: int) -> None:
        self._runner.cache.budget_tokens = num_tokens

    def _keep(self, number: int, slot: int, num_tokens: int) -> None:
        self._kept[number] = self._runner.cache.keep(slot, num_tokens)

    def _fill(self, number: int, slot: int, num_tokens: int) -> None:
        self._kept[number].fill(slot, num_tokens)

    def _drop(self, number: int) -> None:
        self._kept.pop(number).drop()


@torch.inference_mode()
def serve(link: Link, rank: int) -> None:
    """Obey rank 0 until it hangs up, or the ranks lose each other."""
    follower = Follower(rank)
    try:
        while True:
            link.send(follower.obey(link.receive()))
    except RankLost:
        return
    finally:
        link.close()


def _end_with(leader: int) -> None:
    """End this process when its parent has: it may be deep in an exchange, and others may hold the pair's other end."""
    while os.getppid() == leader:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def main() -> None:
    """Follow the process that started this one, over the socket it passed on, for as long as that one goes on."""
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # sent to all processes of a service
        signal.signal(stop, signal.SIG_IGN)
    descriptor, leader, rank = map(int, sys.argv[1:])
    threading.Thread(target=_end_with, args=(leader,), daemon=True).start()
    serve(Link(socket.socket(fileno=descriptor)), rank)


if __name__ == "__main__":
    main()
