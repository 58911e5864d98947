"""What a slot remembers of its crashes, and whether its device is to blame for them rather than a row.

A row that kills its worker is found by running it alone (models/suspects.py). A device that does it kills with any row:
then the rows must not be blamed, and the worker stops before it takes more of them. A process that was killed without a
row in hand, or after it had finished some, says nothing of its device.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from uuid import UUID

log = logging.getLogger(__name__)

WINDOW_SECONDS = 600.0
EXIT_CRASHED = os.EX_OSERR  # as from a hang: whose fault it is the slot's next process finds out


class UnhealthyError(Exception):
    """This worker's device should be given no more rows; says why in one sentence."""


@dataclass(frozen=True, slots=True)
class Crash:
    """When the next process noticed it (seconds since 1970), and the jobs that were held then, by their hex ids."""

    at: float
    jobs: Sequence[str]


class Stage(StrEnum):
    """How far the slot's process has come."""

    LEFT = "left"
    STARTED = "started"
    TRYING = "trying"  # the device, on a prompt of our own
    WORKED = "worked"  # it completed a row, whether that still counted or not


class CrashLog:
    """A small file beside the slot's lock, written by whoever holds that. It tells a process that left from one that
    died, even long after the lease of the dead one was given up."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock

    def begin(self, held: Collection[UUID]) -> bool:
        """Note that a process runs here from now on. True: the last one did not leave, it crashed, and `held` are the
        jobs that it held."""
        stage, crashes = self._read()
        if stage == Stage.TRYING or (stage == Stage.STARTED and held):
            crashes = [*crashes, Crash(self._clock(), [id.hex for id in held])]
        self._write(Stage.STARTED, crashes)
        return stage != Stage.LEFT

    def reach(self, stage: Stage) -> None:
        """Note how far this process has come."""
        self._write(stage, self.recent())

    def end(self) -> None:
        """Note that the process leaves."""
        self.reach(Stage.LEFT)

    def recent(self) -> list[Crash]:
        """The crashes of the last ten minutes that may be the device's fault."""
        return self._read()[1]

    def _read(self) -> tuple[Stage, list[Crash]]:
        try:
            stored = json.loads(self._path.read_text())
            stage, crashes = Stage(stored["stage"]), [Crash(**crash) for crash in stored["crashes"]]
        except FileNotFoundError:
            return Stage.LEFT, []
        except (OSError, ValueError, KeyError, TypeError) as error:  # torn by a power cut, or another version's
            log.warning("crashes not read: %s", error, extra={"action": "crashes_not_read"})
            return Stage.LEFT, []
        now = self._clock()
        return stage, [crash for crash in crashes if abs(now - crash.at) <= WINDOW_SECONDS]

    def _write(self, stage: Stage, crashes: Sequence[Crash]) -> None:
        """Whole or not at all. Where the disk is full the worker goes on without."""
        draft = self._path.with_suffix(".new")
        try:
            draft.write_text(json.dumps({"stage": stage, "crashes": [asdict(crash) for crash in crashes]}))
            os.replace(draft, self._path)
        except OSError as error:
            log.warning("crashes not noted: %s", error, extra={"action": "crashes_not_noted"})


def check_health(
    crashes: Sequence[Crash], *, max_crashes: int, guilty: Callable[[Collection[UUID]], set[UUID]]
) -> None:
    """Raise UnhealthyError after more than `max_crashes` that no single row explains.

    `guilty` tells which of these jobs were found to crash workers: a crash that took one of them along is explained.
    """
    if len(crashes) <= max_crashes:
        return
    found = {id.hex for id in guilty({UUID(id) for crash in crashes for id in crash.jobs})}
    num_unexplained = sum(found.isdisjoint(crash.jobs) for crash in crashes)
    if num_unexplained > max_crashes:
        raise UnhealthyError(
            f"crashed {num_unexplained} times within {WINDOW_SECONDS / 60:.0f} minutes, and no single"
            " prompt explains it; check the device. It is tried again when these crashes are past"
        )
