"""A service and a worker on a file system that gets full, and has room again. Run by test_disk.py inside a namespace.

python -m tests.integration.faults.full_disk FOLDER: an empty folder that is a small file system of its own. Prints what
happened as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from api.app import create_app
from models import migrations
from models.database import Database
from models.disk import watch_of
from models.settings import Settings, load_settings
from models.status import Status
from tests.integration.faults.held_engine import HeldEngine
from tests.integration.worker.workbench import Workbench
from tests.waiting import wait_until

BIG_JOB = {"model": "noop", "prompt": "a" * 100_000, "max_tokens": 2, "background": True}


def fill(path: Path, leave: int) -> None:
    """Take all the room but about so many bytes."""
    block = b"x" * 4096
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(block)
        except OSError:
            file.truncate(max(file.tell() - leave, 0))


def answer_of(answer: Any) -> list[object]:  # noqa: ANN401 (the test client's own response)
    return [answer.status_code, answer.json().get("error", {}).get("code")]


def upload(client: TestClient) -> list[object]:
    lines = b'{"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": {}}\n' * 5000
    return answer_of(client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", lines)}))


def main() -> None:
    folder = Path(sys.argv[1])
    settings = load_settings(
        database_url=f"sqlite:///{folder}/batchmill.db",
        state_dir=folder,
        redis_url="redis://127.0.0.1:1/0",
        auth="open",
        model="noop",
    )
    database = Database(settings.database)
    migrations.upgrade(database)
    print(json.dumps(play(settings, database, folder)))  # noqa: T201
    database.dispose()


def play(settings: Settings, database: Database, folder: Path) -> dict[str, object]:
    """Full, and again with room."""
    seen: dict[str, object] = {}
    engine = HeldEngine(rows=4)
    watched = [folder]
    with (
        TestClient(create_app(settings, database), raise_server_exceptions=False) as client,
        Workbench(database, engine, max_result_bytes=1, disks=watched) as bench,
    ):
        running = bench.submit(*[{"prompt": "a"}] * 4)
        wait_until(lambda: engine.num_live == 4)
        fill(folder / "fill", leave=0)
        wait_until(lambda: watch_of(settings).almost_full() is not None)
        seen["submit when full"] = answer_of(client.post("/v1/completions", json=BIG_JOB))
        seen["upload when full"] = upload(client)
        seen["left behind"] = [path.name for path in (folder / "files").rglob("*") if path.is_file()]
        seen["warnings"] = sum("almost full" in text for text in client.get("/health/ready").json()["warnings"])
        wait_until(lambda: not bench.feeder.wants_more)
        engine.go_on.set()
        wait_until(lambda: engine.num_live == 0)
        (folder / "fill").unlink()
        wait_until(lambda: bench.feeder.wants_more)
        wait_until(lambda: set(bench.store.statuses(running).values()) == {Status.COMPLETED})
        seen["attempts"] = sorted({job.attempt for job in bench.store.jobs(running)})
        seen["submit with room"] = answer_of(client.post("/v1/completions", json=BIG_JOB))
        seen["upload with room"] = upload(client)
    return seen


if __name__ == "__main__":
    main()
