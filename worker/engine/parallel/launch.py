"""From a checkpoint to a model split among this process and others that it starts on this machine."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from worker.engine.families import load_spec
from worker.engine.folders import find_folder
from worker.engine.loader import Model, choose_device, load_model
from worker.engine.parallel.followed import LeadingRunner
from worker.engine.parallel.leader import Leader, Process
from worker.engine.parallel.link import Link
from worker.engine.parallel.ranks import Ranks, device_of, open_store
from worker.engine.parallel.sharding import Share, check_split
from worker.engine.runner import Runner

MakeRunner = Callable[..., Runner]  # (model, *, max_rows, budget_tokens)


def load_split(path: Path, *, device: str, dtype: str, num_ranks: int) -> tuple[Model, MakeRunner]:
    """Load a checkpoint, split among so many ranks where that is more than one, and say how to make its runner.

    This process is rank 0 and takes `device`; the others take the next ones, or on CPUs their own threads, as many as
    this one has. They end with the runner. Raises EngineError with one sentence.
    """
    if num_ranks == 1:
        return load_model(path, device=device, dtype=dtype), Runner
    check_split(load_spec(find_folder(path)), num_ranks)
    first, share = str(choose_device(device)), Share(0, num_ranks)
    leader = Leader([_start(rank) for rank in range(1, num_ranks)])
    shared = {"path": str(path), "device": first, "dtype": dtype, "num_ranks": num_ranks}
    lead = partial(load_model, path, device=device_of(first, share), dtype=dtype, share=share)
    # All at once, each what it needs of the same files.
    model = leader.call("load", lead, timeout_seconds=None, num_threads=torch.get_num_threads(), **shared)
    store = open_store(0, share)
    meet = partial(Ranks, store, share, model.device)
    ranks = leader.call("connect", meet, port=store.port, num_ranks=num_ranks)
    return model, partial(LeadingRunner, leader, ranks)


def _start(rank: int) -> Process:
    """Start a follower. What is meant for this process's group, Ctrl-C above all, does not reach it."""
    here, there = socket.socketpair()
    arguments = [str(number) for number in (there.fileno(), os.getpid(), rank)]
    command = [sys.executable, "-m", "worker.engine.parallel.follower", *arguments]
    with there:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[there.fileno()], start_new_session=True)
    return Process(rank, process, Link(here))
