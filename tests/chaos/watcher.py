"""Looks, over HTTP, where every accepted job stands: for the timeline, and to keep each answer as it was first read."""

import threading
from collections.abc import Mapping
from typing import Any

from tests.chaos.checker import WORKER_CRASHED
from tests.chaos.client import Client, NoAnswer
from tests.chaos.journal import FINAL, Journal
from tests.chaos.timeline import Timeline

LOOK_SECONDS = 0.2
MAX_IDS = 1000  # a poll


class Watcher:
    """A thread; what it cannot read now it reads later."""

    def __init__(self, url: str, journal: Journal, timeline: Timeline, *, has_crashes: bool) -> None:
        self._stopping = threading.Event()
        self._client = Client(url, journal, patience_seconds=2, stop=self._stopping)
        self._journal, self._timeline, self._has_crashes = journal, timeline, has_crashes
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._thread.join()
        self._client.close()

    @property
    def has_seen_all(self) -> bool:
        """Whether every accepted job was seen to have ended."""
        return not self._journal.unfinished_jobs() and not self._journal.unfinished_batches()

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            try:
                self._look()
            except NoAnswer:
                continue
            self._timeline.sample(self._journal.by_state())

    def _look(self) -> None:
        ids = self._journal.unfinished_jobs()
        for start in range(0, len(ids), MAX_IDS):
            ended = []
            for job in self._poll(ids[start : start + MAX_IDS], include=False):
                if job["status"] in FINAL:
                    ended.append(job["id"])
                else:
                    self._journal.saw_job(job)
                    self._check_blame(job)
            for job in self._poll(ended, include=True) if ended else ():
                self._journal.saw_job(job)
        for batch in self._journal.unfinished_batches():
            response = self._client.send("GET", f"/v1/batches/{batch}")
            if response.is_success:
                self._journal.saw_batch(response.json())

    def _check_blame(self, job: Mapping[str, Any]) -> None:
        if not self._has_crashes and job["status_reason"] == WORKER_CRASHED:
            self._journal.violated(f"{job['id']} is suspected of a crash, and no worker crashed")

    def _poll(self, ids: list[str], *, include: bool) -> list[Mapping[str, Any]]:
        body = {"ids": ids, "include": ["result"] if include else []}
        response = self._client.send("POST", "/v1/jobs/poll", json=body)
        if not response.is_success:
            return []
        answer = response.json()
        for id in answer["unknown"]:
            self._journal.lost_job(id)
        data: list[Mapping[str, Any]] = answer["data"]
        return data
