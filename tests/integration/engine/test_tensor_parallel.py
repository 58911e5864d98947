"""An engine whose model is split among two processes: the bits of one, and an end for all where one ends."""

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from transformers import GPT2Config, PreTrainedConfig, Qwen3Config

from tests.integration.engine.mixes import mixed_requests, run_with_cancels
from tests.unit.engine.models import ragged_requests, tiny_llama
from tests.unit.engine.parity import TINY, save_tiny
from tests.unit.engine.test_families import GPT2
from tests.waiting import wait_until
from worker.engine import Engine, EngineError
from worker.engine.parallel import launch

ROWS = 5


def followers() -> list[psutil.Process]:
    """The processes that follow this one."""
    return [child for child in psutil.Process().children() if "worker.engine.parallel.follower" in child.cmdline()]


def load(folder: Path, **settings: object) -> Engine:
    return Engine.load(folder, rows=ROWS, num_threads=1, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    tiny_llama(folder)
    return folder


@pytest.fixture(scope="module")
def split(folder: Path) -> Engine:
    return load(folder, tensor_parallel=2)


@pytest.fixture(scope="module")
def alone(folder: Path) -> Engine:
    return load(folder)


def test_any_mix_has_the_bits_of_one_process(split: Engine, alone: Engine) -> None:
    requests = mixed_requests()

    assert split.generate(requests) == alone.generate(requests)
    assert split.stats()["prefix_hits"] == alone.stats()["prefix_hits"] > 0
    assert split.info.fingerprint == alone.info.fingerprint
    assert split.info.fast_paths["ranks"] == "2 over gloo"


def test_requests_that_join_and_are_cancelled_change_no_bit(split: Engine, alone: Engine) -> None:
    outputs = run_with_cancels(split)

    assert outputs == run_with_cancels(alone)
    assert len(outputs) >= 6


def test_each_process_holds_its_part_of_the_cache(split: Engine, alone: Engine) -> None:
    assert split.stats()["cache_bytes"] * 2 == alone.stats()["cache_bytes"] > 0
    assert split.info.num_parameters == alone.info.num_parameters


def test_rank_0_alone_is_told_to_stop(split: Engine) -> None:
    """A service manager tells all processes of a service; the worker decodes on while it drains."""
    for follower in followers():
        for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            follower.send_signal(stop)

    assert all(output.error is None for output in split.generate(ragged_requests(3)))


CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "qwen3": lambda: Qwen3Config(**TINY, head_dim=16, attention_bias=True),
    "gpt2": lambda: GPT2Config(**GPT2),
}


@pytest.mark.parametrize(("name", "attention"), [("qwen3", "compiled"), ("gpt2", "torch")])
def test_families_have_the_bits_of_one_process(
    name: str, attention: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny(tmp_path, CONFIGS[name]())
    requests = mixed_requests()
    if attention == "torch":
        monkeypatch.setenv("PATH", "")  # no compiler for any rank

    engine = load(tmp_path, tensor_parallel=2)

    assert engine.info.fast_paths["attention"].startswith(attention)
    assert engine.generate(requests) == load(tmp_path).generate(requests)


def test_followers_end_with_the_engine(folder: Path) -> None:
    before = {process.pid for process in followers()}
    engine = load(folder, tensor_parallel=2)
    [follower] = [process for process in followers() if process.pid not in before]

    del engine
    gc.collect()

    assert not follower.is_running()


def test_killed_follower_is_an_error_and_not_a_wait(folder: Path) -> None:
    before = {process.pid for process in followers()}
    engine = load(folder, tensor_parallel=2)
    [follower] = [process for process in followers() if process.pid not in before]
    for request in ragged_requests(6):
        engine.add(engine.prepare(request))
    engine.step()

    follower.kill()

    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(EngineError, match="rank 1 ended with -9"):
            engine.step()
    assert time.monotonic() - began < 10
    assert engine.request_ids() == [f"r{index}" for index in range(6)]


LEADER = """
import subprocess, sys
from worker.engine import Engine, Request

engine = Engine.load(sys.argv[1], num_threads=1, tensor_parallel=2)
[follower] = engine._runner._leader._followers
subprocess.Popen(["sleep", "100"], pass_fds=[follower.link._end.fileno()])
sys.stdout.write("ready\\n")
sys.stdout.flush()
while True:
    engine.generate([Request("r", [3, 4, 5])])
"""


def test_followers_end_with_a_killed_leader(folder: Path) -> None:
    """Even where another child of it holds its end of the line, as one does that was forked."""
    command = [sys.executable, "-c", LEADER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as leader:
        assert leader.stdout is not None
        assert leader.stdout.readline() == b"ready\n"
        follower, holder = psutil.Process(leader.pid).children()
        os.kill(leader.pid, signal.SIGKILL)

    wait_until(lambda: not follower.is_running() or follower.status() == psutil.STATUS_ZOMBIE, 10)
    assert holder.is_running()
    holder.kill()


def test_model_that_cannot_be_split_is_refused_before_anything_is_started(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_start", lambda rank: pytest.fail("started a follower"))

    with pytest.raises(EngineError, match=r"2 key/value heads.*3 ranks"):
        load(folder, tensor_parallel=3)
