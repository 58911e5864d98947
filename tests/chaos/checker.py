"""The promise, held against what the service says at the end. Everything is asked for over HTTP."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tests.chaos.client import Client, NoAnswer
from tests.chaos.journal import FINAL, FINAL_BATCH, Batch, Job, Journal, canonical

MIN_ACCEPTED = 50  # a service that did not start keeps every promise
MAX_IDS = 500
WORKER_CRASHED = "worker_crashed"


class Checker:
    """Reads everything once more, when nothing is changing any longer."""

    def __init__(self, client: Client, journal: Journal, *, has_reruns: bool) -> None:
        self._client, self._journal, self._has_reruns = client, journal, has_reruns

    def check(self) -> None:
        """Note every promise that was broken in the journal."""
        if self._journal.num_accepted() <= MIN_ACCEPTED:
            self._violated(f"only {self._journal.num_accepted()} jobs were accepted: nothing is proven")
        for key, ids in self._journal.ids_of_key.items():
            if len(ids) > 1:
                self._violated(f"{key} was given {len(ids)} ids")
        try:
            self._check_jobs()
            for batch in self._journal.batches.values():
                self._check_batch(batch)
        except NoAnswer as error:
            self._violated(f"no answer at the end: {error}")

    def _violated(self, what: str) -> None:
        self._journal.violated(what)

    def _check_jobs(self) -> None:
        ids = list(self._journal.jobs)
        for start in range(0, len(ids), MAX_IDS):
            body = {"ids": ids[start : start + MAX_IDS], "include": ["result"]}
            for read in self._client.send("POST", "/v1/jobs/poll", json=body).json()["data"]:
                self._check_job(self._journal.jobs[read["id"]], read)

    def _check_job(self, job: Job, read: Mapping[str, Any]) -> None:
        status = read["status"]
        if status not in FINAL:
            self._violated(f"{job.id} never ended: {status} after {read['attempts']} attempts")
            return
        if job.final is not None and job.final != canonical(read):
            self._violated(f"{job.id} changed after its end:\n    {job.final}\n    {canonical(read)}")
        if status == "completed" and read["result"]["choices"][0]["text"] != job.answer:
            self._violated(f"{job.id} has another answer than its prompt's")
        if job.cancel_accepted and status != "cancelled":
            self._violated(f"{job.id} is {status}, though its cancel was accepted")
        if status == "cancelled" and not job.cancel_accepted:
            self._journal.count("cancelled by a request whose answer was lost")
        self._check_fault(job, read)
        if read["attempts"] > 1:
            self._journal.count("jobs begun more than once")
            if not self._has_reruns:
                self._violated(f"{job.id} was begun {read['attempts']} times, though nothing happened to it")

    def _check_fault(self, job: Job, read: Mapping[str, Any]) -> None:
        """A job fails for its own fault alone, and a poisonous one always does."""
        code = read["error"]["code"] if read["status"] == "failed" else None
        if job.is_poison and read["status"] != "cancelled" and code != WORKER_CRASHED:
            self._violated(f"{job.id} kills workers and is {read['status']}, {code}")
        if not job.is_poison and read["status"] in ("failed", "expired"):
            self._violated(f"{job.id} is {read['status']} for no fault of its own: {read['error']['code']}")

    def _check_batch(self, batch: Batch) -> None:
        read = self._client.send("GET", f"/v1/batches/{batch.id}").json()
        if read["status"] not in FINAL_BATCH:
            self._violated(f"{batch.id} never ended: {read['status']}, {read['counts']}")
            return
        if batch.final is not None and batch.final != canonical(read):
            self._violated(f"{batch.id} changed after its end")
        if read["status"] not in ("completed", "cancelled"):
            self._violated(f"{batch.id} is {read['status']} for no fault of its own")
        if batch.cancel_accepted and read["status"] != "cancelled":
            self._violated(f"{batch.id} is {read['status']}, though its cancel was accepted")
        self._check_lines(batch, read)

    def _check_lines(self, batch: Batch, read: Mapping[str, Any]) -> None:
        output, errors = self._lines(read["output_file_id"]), self._lines(read["error_file_id"])
        ids = Counter(line["custom_id"] for line in [*output, *errors])
        for custom_id, number in ids.items():
            if number != 1 or custom_id not in batch.answers:
                self._violated(f"{batch.id}: {custom_id} is there {number} times")
        # A batch that was cancelled while its lines were read has no rows of those that were not.
        if read["status"] == "completed" and set(ids) != set(batch.answers):
            self._violated(f"{batch.id}: {len(batch.answers) - len(ids)} lines are missing")
        self._check_counts(batch, read, len(output), len(errors))
        for line in output:
            text = line["response"]["body"]["choices"][0]["text"]
            if text != batch.answers.get(line["custom_id"]):
                self._violated(f"{batch.id}: {line['custom_id']} has another answer than its prompt's")
        for line in errors:
            if batch.answers.get(line["custom_id"]) is not None and read["status"] == "completed":
                self._violated(f"{batch.id}: {line['custom_id']} failed for no fault of its own: {json.dumps(line)}")

    def _check_counts(self, batch: Batch, read: Mapping[str, Any], num_output: int, num_errors: int) -> None:
        counts = read["counts"]
        if sum(counts.values()) != read["request_counts"]["total"]:
            self._violated(f"{batch.id}: counts {counts} do not add up to {read['request_counts']}")
        if counts["completed"] != num_output or counts["completed"] != read["request_counts"]["completed"]:
            self._violated(f"{batch.id}: {num_output} lines of output, counted {counts}")
        if read["status"] == "completed" and counts["failed"] != num_errors:
            self._violated(f"{batch.id}: {num_errors} lines of errors, counted {counts}")

    def _lines(self, file_id: str | None) -> list[dict[str, Any]]:
        """The lines of a file, which reads the same twice."""
        if file_id is None:
            return []
        first, second = (self._client.send("GET", f"/v1/files/{file_id}/content").text for _ in range(2))
        if first != second:
            self._violated(f"{file_id} reads differently the second time")
        return [json.loads(line) for line in first.splitlines()]
