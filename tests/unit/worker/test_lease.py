"""Slots: one holder at a time, the lowest free one, freed with its process."""

import subprocess
import sys
from pathlib import Path

from worker.lease import Slot


def names(*folders: Path) -> list[str]:
    """Take a slot in each folder, all at the same time."""
    slots = [Slot.take(folder) for folder in folders]
    for slot in slots:
        slot.leave()
    return [slot.name for slot in slots]


def test_each_worker_of_a_state_directory_has_a_slot_of_its_own(tmp_path: Path) -> None:
    first, second = names(tmp_path, tmp_path)
    assert first.endswith("/0")
    assert second.endswith("/1")


def test_slot_of_a_dead_process_is_taken_again(tmp_path: Path) -> None:
    code = "import os, pathlib, sys; from worker.lease import Slot; s = Slot.take(pathlib.Path(sys.argv[1]));"
    code += "print(s.name, flush=True); os.kill(os.getpid(), 9)"
    dead = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert dead.returncode == -9
    assert names(tmp_path) == [dead.stdout.strip()]


def test_two_state_directories_are_two_places(tmp_path: Path) -> None:
    first, second = names(tmp_path / "a", tmp_path / "b")
    assert first != second
