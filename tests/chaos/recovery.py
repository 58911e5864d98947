"""python -m tests.chaos.recovery: how long after a worker's kill -9 all rows it held are begun again elsewhere.

At the default lease and at one of 5 seconds; where a supervisor starts the worker again in its place, which makes the
crash known at once, and where its machine is lost, so that the lease has to run out.
"""

import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos.client import Client
from tests.chaos.cluster import NUM_WORKERS, Cluster
from tests.chaos.journal import Journal

DEFAULT_LEASE_SECONDS, SHORT_LEASE_SECONDS = 15.0, 5.0
LIMIT_SECONDS = {DEFAULT_LEASE_SECONDS: 20.0, SHORT_LEASE_SECONDS: 8.0}
NUM_JOBS = 90
TOKENS = 150  # three seconds
STEP_SECONDS = 0.02
LOOK_SECONDS = 0.05
GIVE_UP_SECONDS = 60.0


def measure(lease_seconds: float, *, is_restarted: bool) -> float:
    """Seconds from the kill until the last row of the killed worker is in progress again."""
    settings = {"BATCHMILL_LEASE_SECONDS": str(lease_seconds), "BATCHMILL_ROWS": "16"}
    with (
        tempfile.TemporaryDirectory(prefix="batchmill-recovery-", ignore_cleanup_errors=True) as folder,
        Cluster(Path(folder), settings=settings, step_seconds=STEP_SECONDS) as cluster,
    ):
        client = Client(cluster.url, Journal(), patience_seconds=GIVE_UP_SECONDS, stop=threading.Event())
        body = {"model": "noop", "prompt": "recovery", "max_tokens": TOKENS}
        jobs = {"jobs": [{"endpoint": "/v1/completions", "body": body} for _ in range(NUM_JOBS)]}
        ids = [job["id"] for job in client.send("POST", "/v1/jobs", json=jobs).json()["data"]]
        _wait_until(client, ids, lambda jobs: len({job["worker_id"] for job in jobs} - {None}) == NUM_WORKERS)
        node = cluster.workers[0]
        killed_at = time.monotonic()
        node.kill()
        if is_restarted:
            node.start()
        return _begun_again_at(client, ids) - killed_at


def _begun_again_at(client: Client, ids: list[str]) -> float:
    """When the last of the rows that are begun a second time was; which those are is known when all have ended."""
    begun: dict[str, float] = {}

    def look(jobs: list[dict[str, Any]]) -> bool:
        for job in jobs:
            if job["attempts"] > 1:
                begun.setdefault(job["id"], time.monotonic())
        return all(job["status"] == "completed" for job in jobs)

    _wait_until(client, ids, look)
    return max(begun.values())


def _wait_until(client: Client, ids: list[str], condition: Callable[[list[dict[str, Any]]], bool]) -> None:
    ends = time.monotonic() + GIVE_UP_SECONDS
    while not condition(_read(client, ids)):
        if time.monotonic() > ends:
            raise TimeoutError("the jobs were not begun, or never ended")
        time.sleep(LOOK_SECONDS)


def _read(client: Client, ids: list[str]) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = client.send("POST", "/v1/jobs/poll", json={"ids": ids}).json()["data"]
    return data


def main() -> int:
    """Print the four figures; exit status 1 where one is over its limit."""
    is_late = False
    for lease_seconds, limit in LIMIT_SECONDS.items():
        for is_restarted in (True, False):
            seconds = measure(lease_seconds, is_restarted=is_restarted)
            how = "restarted in its place" if is_restarted else "machine lost"
            sys.stdout.write(f"lease {lease_seconds:2.0f} s, {how}: {seconds:.1f} s (at most {limit:.0f})\n")
            is_late = is_late or seconds > limit
    return int(is_late)


if __name__ == "__main__":
    sys.exit(main())
