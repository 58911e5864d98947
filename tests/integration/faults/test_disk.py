"""F23: disks that fill up. The file system is a real one of 24 MB, in a namespace where the test may mount it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from models.database import Database
from models.status import Status
from tests.integration.worker.workbench import Workbench
from tests.waiting import wait_until
from worker.noop_engine import NoopEngine

ROOT = Path(__file__).parents[3]
INSIDE = ["unshare", "--user", "--map-root-user", "--mount"]
PLAY = 'mount -t tmpfs -o size=24m none "$1" && exec "$2" -m tests.integration.faults.full_disk "$1"'


def may_mount(folder: Path) -> bool:
    """Whether the system lets a user mount in a namespace of its own."""
    try:
        tried = subprocess.run([*INSIDE, "mount", "-t", "tmpfs", "none", folder], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return tried.returncode == 0


def test_full_disk_is_told_and_passes(tmp_path: Path) -> None:
    """Submitting and uploading 507, nothing left behind, no claims, results kept, and all well once there is room."""
    if not may_mount(tmp_path):
        pytest.skip("no namespaces for users here")
    command = [*INSIDE, "sh", "-c", PLAY, "sh", str(tmp_path), sys.executable]
    played = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert played.returncode == 0, played.stderr

    assert json.loads(played.stdout) == {
        "submit when full": [507, "insufficient_storage"],
        "upload when full": [507, "insufficient_storage"],
        "left behind": [],
        "warnings": 1,
        "attempts": [1],
        "submit with room": [200, None],
        "upload with room": [200, None],
    }


class SmallDisk:
    """What the system says of a disk, and how often it was asked."""

    def __init__(self) -> None:
        self.free, self.num_looks = 0, 0

    def usage(self, _folder: Path) -> "SmallDisk":
        self.num_looks += 1
        return self

    total = 1 << 30


def test_worker_claims_nothing_while_a_disk_is_almost_full(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it may not mount: what the system says of the disk is made up."""
    disk = SmallDisk()
    monkeypatch.setattr("models.disk.shutil.disk_usage", disk.usage)
    database = Database(sqlite_url)
    with Workbench(database, NoopEngine(rows=4), disks=[tmp_path]) as bench:
        [job_id] = bench.submit({"prompt": "a"})
        looks = disk.num_looks
        wait_until(lambda: disk.num_looks > looks + 2)  # seconds, in which it could have been claimed
        assert not bench.feeder.wants_more
        assert bench.store.statuses([job_id]) == {job_id: Status.QUEUED}
        disk.free = disk.total
        assert bench.result(job_id).status is Status.COMPLETED
    database.dispose()
