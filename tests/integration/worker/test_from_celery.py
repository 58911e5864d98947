"""A service that has Celery already: its own application and its own worker, beside ours, on one Redis."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from celery import Celery, chord, group, signature
from celery.exceptions import ChordError

from models.status import Status
from tests.integration.worker.conftest import Station
from tests.waiting import wait_until
from worker.result_backend import GenerationError

SERVICE = """
from celery import Celery

app = Celery("service", broker={redis!r}, backend="worker.result_backend:JobsBackend+{database}")
app.conf.result_backend_transport_options = {{"other_tasks": {redis!r}}}
app.conf.result_chord_retry_interval = 0.2
app.conf.task_default_queue = "service"


@app.task(name="service.join")
def join(results):
    return "|".join(result["text"] for result in results)


@app.task(name="service.double")
def double(number):
    return {{"text": str(2 * number)}}
"""


class Service:
    """Another service: its client side here, its worker in a process."""

    def __init__(self, station: Station) -> None:
        code = SERVICE.format(redis=station.redis_url, database=station.database_url)
        (station.folder / "service.py").write_text(code)
        with (station.folder / "service.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "service", "worker", "--pool", "solo", "--loglevel", "info"],
                cwd=station.folder,
                env=os.environ | {"PYTHONPATH": os.pathsep.join([str(station.folder), str(Path.cwd())])},
                stdout=log,
                stderr=log,
            )
        backend = f"worker.result_backend:JobsBackend+{station.database_url}"
        self.app = Celery("client", broker=station.redis_url, backend=backend)
        self.app.conf.result_backend_transport_options = {"other_tasks": station.redis_url}
        self.app.conf.result_chord_retry_interval = 0.2

    def generate(self, prompt: str, **parameters: Any) -> Any:  # noqa: ANN401 (Celery's Signature)
        kwargs = {"prompt": prompt, "max_tokens": 3, **parameters}
        return signature("generate", kwargs=kwargs, queue="generate.noop", app=self.app)

    def task(self, name: str, *args: object) -> Any:  # noqa: ANN401
        return signature(f"service.{name}", args=args, queue="service", app=self.app)

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()
        self.app.backend.store.database.dispose()
        self.app.backend.others.client.close()
        self.app.close()


@pytest.fixture
def service(sqlite_station: Station) -> Iterator[Service]:
    service = Service(sqlite_station)
    yield service
    service.close()


def test_a_chord_of_generations_ends_in_a_task_of_the_service(sqlite_station: Station, service: Service) -> None:
    sqlite_station.start_worker()
    done = chord([service.generate(f"{letter}xyz") for letter in "abc"])(service.task("join"))
    assert done.get(timeout=60) == "axy|bxy|cxy"


def test_a_chord_may_hold_tasks_of_both(sqlite_station: Station, service: Service) -> None:
    sqlite_station.start_worker()
    done = chord([service.generate("hello"), service.task("double", 21)])(service.task("join"))
    assert done.get(timeout=60) == "hel|42"


def test_a_failed_generation_fails_its_chord(sqlite_station: Station, service: Service) -> None:
    sqlite_station.start_worker()
    done = chord([service.generate("hello"), service.generate("hello", temperature=9)])(service.task("join"))
    with pytest.raises(ChordError, match="invalid_value"):
        done.get(timeout=60)


def test_a_group_is_read_as_a_whole(sqlite_station: Station, service: Service) -> None:
    sqlite_station.start_worker()
    results = group([service.generate(f"{number:03}...") for number in range(300)])()
    assert [result["text"] for result in results.get(timeout=60)] == [f"{number:03}" for number in range(300)]


def test_results_of_the_services_own_tasks_are_kept(service: Service) -> None:
    sent = service.task("double", 4).apply_async()
    assert sent.get(timeout=60) == {"text": "8"}
    assert sent.state == "SUCCESS"


def test_a_chain_is_refused_and_not_forgotten(sqlite_station: Station, service: Service) -> None:
    sqlite_station.start_worker()
    last = (service.generate("hello") | service.task("join")).apply_async()
    with pytest.raises(GenerationError, match=r"unsupported_parameter.*chord"):
        last.parent.get(timeout=60)


def test_the_higher_priority_is_decoded_first(sqlite_station: Station) -> None:
    """Redis holds the messages in its own classes, 0 soonest; the priority among the arguments is the job's."""
    sent = [
        sqlite_station.send(
            "generate.demo",
            kwargs={"prompt": "os.path:", "max_tokens": 100, "ignore_eos": True, "priority": priority},
            priority=9 - priority,
        )
        for priority in (0, 3, 6, 9)
    ]
    sqlite_station.start_worker(model="demo", BATCHMILL_ROWS="1")
    for result in sent:
        result.get(timeout=60)
    jobs = sqlite_station.store.jobs([UUID(result.id) for result in sent])
    assert [job.priority for job in jobs] == [0, 3, 6, 9]
    finished = [job.finished_at for job in jobs if job.finished_at is not None]
    assert finished == sorted(finished, reverse=True)


def test_a_revoked_running_job_is_cancelled(sqlite_station: Station) -> None:
    sqlite_station.start_worker(model="demo", BATCHMILL_ROWS="4")
    wait_until(lambda: sqlite_station.app.control.inspect(timeout=1, limit=1).ping())
    body = {"prompt": "os.path:", "max_tokens": 100_000, "ignore_eos": True, "context_overflow": "crop"}
    sent = sqlite_station.send("generate.demo", kwargs=body)
    wait_until(lambda: sent.state == "STARTED")
    sent.revoke()
    wait_until(lambda: sent.state == "REVOKED")
    assert sqlite_station.store.statuses([UUID(sent.id)]) == {UUID(sent.id): Status.CANCELLED}
