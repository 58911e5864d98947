"""A worker that cannot work says why and ends with a status that no supervisor starts again; jobs wait for another."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from models.ids import uuid7
from models.records import NewJob
from models.settings import DEMO_FOLDER
from models.status import Status
from tests.faults import launch
from tests.integration.worker.conftest import Station

EXIT_CONFIGURATION = 78
SECONDS = 90.0


def refusal(station: Station, model: str) -> str:
    """Start a worker that is to refuse, and give what it said."""
    settings = {
        "DATABASE_URL": station.database_url,
        "REDIS_URL": station.redis_url,
        "BATCHMILL_STATE_DIR": str(station.folder / "state"),
        "BATCHMILL_MODEL": model,
    }
    command = [sys.executable, "-m", "cli.main", "worker"]
    ended = subprocess.run(
        command, env=launch.environment(**settings), capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert ended.returncode == EXIT_CONFIGURATION, ended.stderr
    return ended.stderr


def broken_copy(folder: Path, name: str) -> str:
    """The demo model with one file cut short."""
    copy = folder / "broken"
    shutil.copytree(DEMO_FOLDER, copy)
    (copy / name).write_bytes((copy / name).read_bytes()[:100])
    return str(copy)


@pytest.mark.parametrize("broken", [None, "config.json", "model.safetensors"], ids=["missing", "config", "weights"])
def test_worker_without_its_model_says_so_and_leaves_jobs_queued(sqlite_station: Station, broken: str | None) -> None:
    folder = sqlite_station.folder
    model = str(folder / "broken") if broken is None else broken_copy(folder, broken)
    job = NewJob(uuid7(), "broken", "/v1/completions", {"prompt": "a", "seed": 1})
    sqlite_station.store.submit([job])

    said = refusal(sqlite_station, model)

    assert "batchmill: " in said
    assert "Traceback" not in said
    assert sqlite_station.store.statuses([job.id]) == {job.id: Status.QUEUED}
    assert sqlite_station.store.workers() == []


def test_worker_at_another_schema_says_so(sqlite_station: Station) -> None:
    with sqlite_station.database.transaction() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    assert "schema" in refusal(sqlite_station, "noop")
