"""When workers are started again, what they are told, and with which status their supervisor ends."""

import logging
import math
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cli.devices import choose_devices
from cli.signals import noted
from cli.supervisor import OVERTIME_SECONDS, DeviceWorker, Supervisor, environment_of
from models.settings import load_settings

GRACE_SECONDS = 25.0
TERM, INT, HUP, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL
CONFIGURATION, USAGE, UNHEALTHY = 78, 2, 71
FOR_EVER = math.inf
ENDING_SECONDS = 0.125  # of a process that is told to


@dataclass
class Life:
    """Of one process: how long it lives, how it ends then, and how it ends when it is told to."""

    seconds: float = FOR_EVER
    status: int = -KILL
    told: int | None = 0  # None: it does not listen
    started_at: float = 0.0
    signals: list[int] = field(default_factory=list)


class FakeProcess:
    """Lives such a life by the scene's clock."""

    pid = 1

    def __init__(self, life: Life, scene: "Scene") -> None:
        self._life, self._scene = life, scene
        self._life.started_at = scene.now
        self.ends_at = scene.now + life.seconds

    def poll(self) -> int | None:
        return self._life.status if self._scene.now >= self.ends_at else None

    def send_signal(self, sig: int) -> None:
        self._life.signals.append(sig)
        status = -KILL if sig == KILL else self._life.told
        if status is not None:
            self._life.status, self.ends_at = status, self._scene.now + ENDING_SECONDS


class Scene:
    """A supervisor of workers with given lives, one after the other, and signals that come at given times."""

    def __init__(self, *workers: Sequence[Life], signals: Sequence[tuple[float, int]] = ()) -> None:
        self.now = 0.0
        self._signals = list(signals)
        self._processes: list[FakeProcess] = []
        self._workers = [self._worker(number, iter(lives)) for number, lives in enumerate(workers)]

    def _worker(self, number: int, lives: Iterator[Life]) -> DeviceWorker:
        def launch() -> FakeProcess:
            process = FakeProcess(next(lives), self)
            self._processes.append(process)
            return process

        return DeviceWorker(f"cpu:{number}", launch, clock=lambda: self.now)

    def wait(self, seconds: float | None) -> list[int]:
        """Let time pass until something happens."""
        ends = [process.ends_at for process in self._processes if process.ends_at > self.now]
        comes = [time for time, _ in self._signals]
        self.now = min(self.now + (FOR_EVER if seconds is None else seconds), *ends, *comes, FOR_EVER)
        assert self.now < FOR_EVER, "it waits for what never comes"
        noted = [number for time, number in self._signals if time <= self.now]
        self._signals = self._signals[len(noted) :]
        return noted

    def run(self) -> int:
        return Supervisor(self._workers, self.wait, grace_seconds=GRACE_SECONDS, clock=lambda: self.now).run()


def starts(lives: Sequence[Life]) -> list[float]:
    return [life.started_at for life in lives]


@pytest.mark.parametrize("number", [TERM, INT])
def test_signal_to_stop_is_passed_on_as_an_order_to_drain(number: int) -> None:
    first, second = Life(), Life()
    assert Scene([first], [second], signals=[(5, number)]).run() == 0
    assert first.signals == second.signals == [TERM]


def test_second_signal_is_passed_on_too() -> None:
    stubborn, swift = Life(seconds=9, status=0, told=None), Life()
    assert Scene([stubborn], [swift], signals=[(5, TERM), (7, TERM)]).run() == 0
    assert (stubborn.signals, swift.signals) == ([TERM, TERM], [TERM])


def test_hangup_changes_nothing() -> None:
    life = Life()
    assert Scene([life], signals=[(5, HUP), (6, TERM)]).run() == 0
    assert life.signals == [TERM]


@pytest.mark.parametrize("status", [-KILL, 0, 1, 70, UNHEALTHY], ids=str)
def test_worker_that_ends_unasked_is_started_again_after_a_second(status: int) -> None:
    """Whatever its status: one that was drained over HTTP ends with 0."""
    lives = [Life(10, status), Life()]
    assert Scene(lives, signals=[(20, TERM)]).run() == 0
    assert starts(lives) == [0, 11]


def test_pause_doubles_up_to_a_minute_while_workers_die_in_their_first() -> None:
    lives = [*(Life(59) for _ in range(8)), Life()]
    assert Scene(lives, signals=[(10_000, TERM)]).run() == 0
    pauses = [later - sooner - 59 for sooner, later in zip(starts(lives), starts(lives)[1:], strict=False)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_pause_is_a_second_again_after_a_minute_of_life() -> None:
    lives = [Life(1), Life(1), Life(60), Life(1), Life()]
    assert Scene(lives, signals=[(10_000, TERM)]).run() == 0
    assert starts(lives) == [0, 2, 5, 66, 69]


@pytest.mark.parametrize("status", [CONFIGURATION, USAGE])
def test_worker_that_cannot_start_is_given_up_and_its_status_passed_on(status: int) -> None:
    assert Scene([Life(1, status)], [Life(2, status)]).run() == status


def test_others_go_on_when_one_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bad, good = Life(1, CONFIGURATION), Life()
    assert Scene([bad], [good], signals=[(1000, TERM)]).run() == CONFIGURATION
    assert good.signals == [TERM]
    assert "worker on cpu:0 ended with status 78 and is not started again" in caplog.messages


def test_worker_that_waits_to_be_started_again_is_not_once_all_stop() -> None:
    assert Scene([Life(10)], signals=[(10.5, TERM)]).run() == 0


@pytest.mark.parametrize(("told", "status"), [(0, 0), (-TERM, 0), (1, 1), (-KILL, 137), (CONFIGURATION, 78)])
def test_status_tells_whether_all_ended_well(told: int, status: int) -> None:
    """By SIGTERM itself ends who has not begun to listen."""
    assert Scene([Life()], [Life(told=told)], [Life()], signals=[(1, TERM)]).run() == status


def test_worker_that_does_not_stop_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene([hung := Life(told=None)], [good := Life()], signals=[(1, TERM), (3, TERM)])
    assert scene.run() == 128 + KILL
    assert scene.now == 1 + GRACE_SECONDS + OVERTIME_SECONDS + ENDING_SECONDS
    assert (hung.signals, good.signals) == ([TERM, TERM, KILL], [TERM])
    assert "worker on cpu:0 does not stop and is killed" in caplog.messages


def test_each_event_is_a_line_with_an_action(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Scene([Life(1), Life(1, 71), Life()], signals=[(9, TERM)]).run()
    assert [(vars(record)["action"], vars(record)["device"]) for record in caplog.records] == [
        (action, "cpu:0") for action in [*("worker_started", "worker_died") * 2, "worker_started", "worker_ended"]
    ]
    assert caplog.messages[:4] == [
        "worker on cpu:0 started, process 1",
        "worker on cpu:0 ended with signal SIGKILL, starting it again in 1 s",
        "worker on cpu:0 started, process 1",
        "worker on cpu:0 ended with status 71, starting it again in 2 s",
    ]


def test_workers_have_a_seat_each_and_all_else_in_common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.supervisor.spare_threads", lambda: 7)
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "redis.url").write_text("redis://127.0.0.1:1234/0\n")
    settings = load_settings(state_dir=tmp_path, model="noop", rows="auto", gpu_memory_fraction=0.5, dtype="float32")
    settings = settings.model_copy(update={"kv_dtype": "fp8", "reproducible": True})
    devices = choose_devices("3,cpu", find_gpus=lambda: "0123")

    environments = [environment_of(settings, device, len(devices)) for device in devices]

    for environment in environments:
        monkeypatch.undo()
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        child = load_settings()
        assert (child.database, child.broker, child.blobs) == (settings.database, settings.broker, settings.blobs)
        assert (child.model, child.rows, child.gpu_memory_fraction) == ("noop", "auto", 0.5)
        assert (child.dtype, child.threads) == ("float32", 3)
        assert (child.kv_dtype, child.reproducible) == ("fp8", True)
    assert [environment["BATCHMILL_STATE_DIR"] for environment in environments] == [
        str(tmp_path / "devices" / name) for name in ("cuda-3", "cpu-0")
    ]
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == ["3", ""]


@pytest.mark.parametrize(("given", "cores", "each"), [(5, 7, "5"), (None, 1, "1"), (None, 7, "2")])
def test_threads_are_shared_unless_they_are_given(
    monkeypatch: pytest.MonkeyPatch, given: int | None, cores: int, each: str
) -> None:
    monkeypatch.setattr("cli.supervisor.spare_threads", lambda: cores)
    [device] = choose_devices("cpu")
    assert environment_of(load_settings(threads=given), device, 3)["BATCHMILL_THREADS"] == each


def test_signals_are_noted_in_their_order_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGUSR2)
    with noted(signal.SIGUSR1, signal.SIGUSR2) as wait:
        for number in (signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(os.getpid(), number)
        assert list(wait(None)) == [signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR2]
        assert list(wait(0)) == []
    assert (signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGUSR2)) == before
    assert signal.set_wakeup_fd(-1) == -1
