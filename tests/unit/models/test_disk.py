"""When a disk counts as almost full."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from models import disk
from models.disk import ENOUGH_BYTES, LOOK_SECONDS, DiskWatch, watch_of
from models.settings import load_settings

GIB = 1 << 30


class Usage(NamedTuple):
    """As shutil.disk_usage tells it."""

    total: int
    used: int
    free: int


class Disk:
    """A disk and a clock of the test's making."""

    def __init__(self, total: int, free: int) -> None:
        self.total, self.free, self.time = total, free, 0.0
        self.asked: list[Path] = []

    def usage(self, folder: Path) -> Usage:
        self.asked.append(folder)
        return Usage(self.total, self.total - self.free, self.free)


@pytest.mark.parametrize(
    ("total", "free", "is_full"),
    [
        (10 * GIB, GIB // 2 - 1, True),
        (10 * GIB, GIB // 2, False),
        (1000 * GIB, ENOUGH_BYTES, False),  # half a per cent, and plenty
        (1000 * GIB, ENOUGH_BYTES - 1, True),
    ],
)
def test_share_or_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, total: int, free: int, is_full: bool) -> None:
    monkeypatch.setattr(shutil, "disk_usage", Disk(total, free).usage)

    assert (DiskWatch([tmp_path], 0.05).almost_full() is not None) is is_full
    assert DiskWatch([tmp_path], 0).almost_full() is None
    assert DiskWatch([], 0.05).almost_full() is None


def test_disk_is_looked_at_once_a_second_and_seen_to_have_room_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small = Disk(GIB, 0)
    monkeypatch.setattr(shutil, "disk_usage", small.usage)
    watch = DiskWatch([tmp_path / "not" / "made"], 0.05, clock=lambda: small.time)
    assert watch.almost_full() == tmp_path / "not" / "made"
    small.free = GIB
    assert watch.almost_full() is not None
    small.time += LOOK_SECONDS
    assert watch.almost_full() is None
    assert small.asked == [tmp_path, tmp_path]


def test_what_is_not_on_this_host_is_not_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "DiskWatch", lambda folders, _: list(folders))
    local = load_settings(state_dir=tmp_path)
    remote = load_settings(state_dir=tmp_path, database_url="postgresql://h/d", blob_url="s3://bucket/files")

    watched: list[object] = [watch_of(local), watch_of(remote)]
    assert watched == [[tmp_path, tmp_path / "files"], []]
