"""Clients that submit, repeat and cancel while everything around them fails."""

import json
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.chaos.client import Client, NoAnswer
from tests.chaos.journal import FINAL, Batch, Job, Journal

ENDPOINT = "/v1/completions"
WORDS = ("river", "stone", "lamp", "window", "garden", "letter", "winter", "music", "harbour", "bread")
NUM_CLIENTS = 4
BAD_SHARE = 0.1  # of a batch's lines


@dataclass(frozen=True, slots=True)
class Mix:
    """What the clients do: how often what, in shares; how long jobs take, in tokens; how long a client rests."""

    single: float = 6.0
    many: float = 0.3  # ten to thirty jobs in one request
    batch: float = 0.5
    again: float = 1.0
    cancel: float = 1.5
    cancel_batch: float = 0.15
    read: float = 1.0
    tokens: tuple[int, int] = (2, 25)
    lines: tuple[int, int] = (5, 40)
    pause_seconds: float = 0.08
    num_clients: int = NUM_CLIENTS
    max_waiting: int = 200  # jobs; while there are more, the clients submit none: a fast machine must not drown a run


class Load:
    """Threads, each with a random generator of its own, so that a seed says what each of them does."""

    def __init__(self, url: str, journal: Journal, mix: Mix, seed: int) -> None:
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=Caller(url, journal, mix, f"{seed}-{number}", self._stop).run, daemon=True)
            for number in range(mix.num_clients)
        ]

    def start(self) -> None:
        """Begin to call."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish the calls at hand."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


class Caller:
    """One client."""

    def __init__(self, url: str, journal: Journal, mix: Mix, name: str, stop: threading.Event) -> None:
        self._client = Client(url, journal, patience_seconds=40, stop=stop)
        self._journal, self._mix, self._stop = journal, mix, stop
        self._random, self._name = random.Random(name), name
        self._number = 0
        self._sent: list[tuple[str, dict[str, Any]]] = []  # keys and bodies, to be sent once more
        self._submissions: dict[Callable[[], None], float] = {
            self._submit: mix.single,
            self._submit_many: mix.many,
            self._submit_batch: mix.batch,
        }
        self._others: dict[Callable[[], None], float] = {
            self._submit_again: mix.again,
            self._cancel: mix.cancel,
            self._cancel_batch: mix.cancel_batch,
            self._read: mix.read,
        }

    def run(self) -> None:
        """Call until told to stop."""
        try:
            while not self._stop.wait(self._random.uniform(0, 2 * self._mix.pause_seconds)):
                try:
                    self._choose()()
                except NoAnswer:
                    self._journal.count("requests given up")
        finally:
            self._client.close()

    def _choose(self) -> Callable[[], None]:
        is_full = self._journal.num_unfinished() > self._mix.max_waiting
        actions = self._others if is_full else self._submissions | self._others
        (action,) = self._random.choices(list(actions), list(actions.values()))
        return action

    def _body(self) -> dict[str, Any]:
        self._number += 1
        prompt = f"{self._name}/{self._number} " + " ".join(self._random.choices(WORDS, k=12))
        return {"model": "noop", "prompt": prompt, "max_tokens": self._random.randint(*self._mix.tokens)}

    def _submit(self) -> None:
        body = self._body() | {"background": True, "priority": self._random.randrange(10)}
        key = f"key-{self._name}-{self._number}"
        self._sent.append((key, body))
        self._send(key, body)

    def _submit_again(self) -> None:
        if self._sent:
            self._send(*self._random.choice(self._sent))

    def _send(self, key: str, body: dict[str, Any]) -> None:
        response = self._client.send("POST", ENDPOINT, json=body, headers={"Idempotency-Key": key})
        if response.is_success:
            self._journal.accepted_job(Job(response.json()["id"], body["prompt"], body["max_tokens"]), key)

    def _submit_many(self) -> None:
        bodies = [self._body() for _ in range(self._random.randint(10, 30))]
        key = f"key-{self._name}-{self._number}-many"
        jobs = [{"endpoint": ENDPOINT, "body": body} for body in bodies]
        response = self._client.send("POST", "/v1/jobs", json={"jobs": jobs}, headers={"Idempotency-Key": key})
        if response.is_success:
            for index, (body, entry) in enumerate(zip(bodies, response.json()["data"], strict=True)):
                self._journal.accepted_job(Job(entry["id"], body["prompt"], body["max_tokens"]), f"{key}/{index}")

    def _submit_batch(self) -> None:
        bodies = [self._body() for _ in range(self._random.randint(*self._mix.lines))]
        bad = {index for index in range(len(bodies)) if self._random.random() < BAD_SHARE}
        key = f"key-{self._name}-{self._number}-batch"
        lines = [
            {"custom_id": f"line-{index}", "method": "POST", "url": ENDPOINT, "body": body | _fault(index in bad)}
            for index, body in enumerate(bodies)
        ]
        content = "\n".join(json.dumps(line) for line in lines).encode()
        files = {"file": ("input.jsonl", content), "purpose": (None, b"batch")}
        upload = self._client.send("POST", "/v1/files", files=files)
        if not upload.is_success:
            return
        batch = {"input_file_id": upload.json()["id"], "endpoint": ENDPOINT, "completion_window": "24h"}
        response = self._client.send("POST", "/v1/batches", json=batch, headers={"Idempotency-Key": key})
        if response.is_success:
            answers = {
                f"line-{index}": None if index in bad else body["prompt"][: body["max_tokens"]]
                for index, body in enumerate(bodies)
            }
            self._journal.accepted_batch(Batch(response.json()["id"], answers), key)

    def _cancel(self) -> None:
        """Cancel a job that is not known to have ended; the answer says whether that was accepted."""
        job = self._pick(self._journal.unfinished_jobs()[-60:])
        if job is None:
            return
        response = self._client.send("POST", f"/v1/jobs/{job}/cancel")
        if not response.is_success:
            return
        body = response.json()
        accepted = body["status"] == "cancelled" or body["status_reason"] == "cancel_requested"
        if not accepted and body["status"] not in FINAL:
            self._journal.violated(f"the cancel of {job} was neither accepted nor too late: {body['status']}")
        if accepted:
            with self._journal.locked():
                self._journal.jobs[job].cancel_accepted = True
            self._journal.count("cancels accepted")

    def _cancel_batch(self) -> None:
        batch = self._pick(self._journal.unfinished_batches())
        if batch is None:
            return
        response = self._client.send("POST", f"/v1/batches/{batch}/cancel")
        if response.is_success and response.json()["status"] in ("cancelling", "cancelled"):
            with self._journal.locked():
                self._journal.batches[batch].cancel_accepted = True

    def _read(self) -> None:
        job = self._pick([*self._journal.jobs])
        if job is not None:
            response = self._client.send("GET", f"/v1/jobs/{job}", params={"include": "result"})
            if response.is_success and response.json()["status"] not in FINAL | {"queued", "in_progress"}:
                self._journal.violated(f"{job} has the status {response.json()['status']}")

    def _pick(self, ids: list[str]) -> str | None:
        return self._random.choice(ids) if ids else None


def _fault(is_bad: bool) -> dict[str, Any]:
    """What a line cannot be run with."""
    return {"temperature": 5} if is_bad else {}
