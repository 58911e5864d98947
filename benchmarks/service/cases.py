"""The three cases: tokens a second through the whole service, submits a second, and a large batch end to end."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from redis import Redis

from benchmarks.engine.work import SHAPES, Work, make_work, save_model
from benchmarks.service.load import Load, closed_loop, open_loop, post
from benchmarks.service.processes import celery, free_port, older_celery, ours, running, wait_until
from benchmarks.services import postgresql_url
from cli.embedded import embedded_redis
from models import migrations
from models.database import Database

ROWS = 128
PEER_JOBS = 32  # of plain Celery, which decodes one at a time
CONNECTIONS = 32
STEADY_RATE = 200.0
READ_SECONDS = 300.0


@dataclass(frozen=True)
class Place:
    """Where a run's services are."""

    folder: Path
    database_url: str
    redis_url: str
    port: int

    @property
    def environment(self) -> dict[str, str]:
        """For our processes: one thread for the engine, as the machine is shared with all the rest."""
        return {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "BATCHMILL_STATE_DIR": str(self.folder / "state"),
            "BATCHMILL_THREADS": "1",
            "BATCHMILL_LOG_FORMAT": "json",
        }

    def client(self) -> httpx.Client:
        """A client of our service."""
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}/v1", timeout=READ_SECONDS)


def open_place(stack: ExitStack, folder: Path) -> Place:
    """A durable PostgreSQL with our tables, and a Redis, for as long as the stack lives."""
    database_url = stack.enter_context(postgresql_url(folder / "postgresql"))
    redis_url = stack.enter_context(embedded_redis(folder / "redis", keep=False))
    database = Database(database_url)
    migrations.upgrade(database)
    database.dispose()
    return Place(folder, database_url, redis_url, free_port())


def start_api(stack: ExitStack, place: Place) -> None:
    """Our HTTP service."""
    command = ours("api", "--port", str(place.port))
    stack.enter_context(running(command, place.environment, place.folder / "api.log"))
    wait_until(lambda: _answers(f"http://127.0.0.1:{place.port}/health"), 60)


def start_worker(stack: ExitStack, place: Place, model: str, **environment: str) -> None:
    """One worker of ours, ready."""
    more = place.environment | {"BATCHMILL_MODEL": model, **environment}
    stack.enter_context(running(ours("worker", "--loglevel", "warning"), more, place.folder / "worker.log"))
    with place.client() as client:
        wait_until(lambda: any(entry["id"] == Path(model).name for entry in client.get("/models").json()["data"]), 120)


def start_plain(stack: ExitStack, place: Place, port: int, model: str) -> None:
    """FastAPI and a plain Celery worker."""
    environment = {"REDIS_URL": place.redis_url, "BENCH_MODEL": model}
    api = [sys.executable, "-m", "uvicorn", "benchmarks.service.plain_app:api", "--port", str(port), "--no-access-log"]
    stack.enter_context(running(api, environment, place.folder / "plain-api.log"))
    stack.enter_context(running(celery("benchmarks.service.plain_app"), environment, place.folder / "plain-worker.log"))
    wait_until(lambda: _answers(f"http://127.0.0.1:{port}/openapi.json"), 60)


def tokens_case(folder: Path, num_jobs: int) -> dict[str, float]:
    """Tokens a second of the same ragged greedy prompts: the engine alone, the service, and the peers."""
    spec = SHAPES["15M"]
    model = folder / "bench-15m"
    save_model(model, spec)
    work = make_work(spec, num_jobs, seed=7)
    figures = {"bare engine": _bare_engine(model, folder, work)}
    with ExitStack() as stack:
        place = open_place(stack, folder)
        start_api(stack, place)
        start_worker(stack, place, str(model), BATCHMILL_ROWS=str(ROWS), BATCHMILL_DTYPE="float32")
        with place.client() as client:
            _run_batch(client, [_line(model.name, item, i) for i, item in enumerate(make_work(spec, 40, seed=98))])
            seconds, batch = _run_batch(client, [_line(model.name, item, i) for i, item in enumerate(work)])
        figures["service"] = batch["usage"]["output_tokens"] / seconds
    with ExitStack() as stack:
        place = open_place(stack, folder / "peers")
        port = free_port()
        start_plain(stack, place, port, str(model))
        figures["FastAPI + Celery + HF generate"] = _plain_tokens(port, work[:PEER_JOBS])
        python = older_celery(folder / "older")
        environment = {"REDIS_URL": place.redis_url, "BENCH_MODEL": str(model)}
        log = folder / "batches.log"
        stack.enter_context(running(celery("benchmarks.service.batches_app", python), environment, log))
        figures["celery-batches(64) + HF generate"] = _batches_rate(place, work, python)
    return figures


def submits_case(folder: Path, seconds: float) -> dict[str, float]:
    """Durable background submits a second, and the latency at a steady rate; the peer's are in Redis alone."""
    with ExitStack() as stack:
        place = open_place(stack, folder)
        start_api(stack, place)
        start_worker(stack, place, "noop")  # announces the model; it also works off what comes in

        def make(number: int) -> bytes:
            body = {"model": "noop", "prompt": f"prompt {number}", "max_tokens": 1, "background": True}
            return post("/v1/completions", json.dumps(body).encode())

        most = closed_loop(place.port, make, connections=CONNECTIONS, seconds=seconds)
        steady = open_loop(place.port, make, rate=STEADY_RATE, seconds=seconds, connections=CONNECTIONS)
    with ExitStack() as stack:
        place = open_place(stack, folder / "peers")
        port = free_port()
        start_plain(stack, place, port, "")
        body = post("/generate", json.dumps({"prompt": [1, 2, 3], "max_tokens": 1}).encode())
        peer = closed_loop(port, lambda number: body, connections=CONNECTIONS, seconds=seconds)
    _no_failures(most, steady, peer)
    return {
        "submits/s": most.per_second,
        "p50 ms at 200/s": steady.percentile(0.5) * 1000,
        "p99 ms at 200/s": steady.percentile(0.99) * 1000,
        "FastAPI + Celery submits/s": peer.per_second,
    }


def batch_case(folder: Path, num_lines: int, num_peer: int) -> dict[str, float]:
    """Jobs a second from the upload to the last result, one token each, with an engine that computes nothing."""
    work = [Work([1, 2, 3], 1)] * num_peer
    with ExitStack() as stack:
        place = open_place(stack, folder)
        start_api(stack, place)
        start_worker(stack, place, "noop")
        with place.client() as client:
            lines = [_line("noop", Work([number % 1000, 2, 3], 1), number) for number in range(num_lines)]
            seconds, batch = _run_batch(client, lines)
            began = time.perf_counter()
            content = client.get(f"/files/{batch['output_file_id']}/content").content
            download_seconds = time.perf_counter() - began
        assert content.count(b"\n") == num_lines
        figures = {"jobs/s": num_lines / seconds, "download lines/s": num_lines / download_seconds}
    with ExitStack() as stack:
        place = open_place(stack, folder / "peers")
        port = free_port()
        start_plain(stack, place, port, "")
        began = time.perf_counter()
        _plain_tokens(port, work)
        figures["FastAPI + Celery jobs/s"] = num_peer / (time.perf_counter() - began)
        python = older_celery(folder / "older")
        log, environment = folder / "batches.log", {"REDIS_URL": place.redis_url}
        stack.enter_context(running(celery("benchmarks.service.batches_app", python), environment, log))
        figures["celery-batches(64) jobs/s"] = _batches_rate(place, work, python)
    return figures


def _bare_engine(model: Path, folder: Path, work: Sequence[Work]) -> float:
    """Tokens a second of the engine in a process of its own, one thread, after a warm-up."""
    (folder / "work.json").write_text(json.dumps([[item.prompt, item.num_new_tokens] for item in work]))
    arguments = [str(model), str(folder / "work.json"), str(ROWS)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.service.bare", *arguments], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def _line(model: str, item: Work, number: int) -> bytes:
    body = {
        "model": model,
        "prompt": item.prompt,
        "max_tokens": item.num_new_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    line = {"custom_id": f"{number}", "method": "POST", "url": "/v1/completions", "body": body}
    return json.dumps(line).encode() + b"\n"


def _run_batch(client: httpx.Client, lines: Sequence[bytes]) -> tuple[float, dict[str, Any]]:
    """Upload, create, wait; the seconds from the first byte to the answer that says completed."""
    began = time.perf_counter()
    file = client.post("/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", b"".join(lines))}).json()
    body = {"input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
    batch = client.post("/batches", json=body).json()
    while batch["status"] not in ("completed", "failed", "expired", "cancelled"):
        batch = client.get(f"/batches/{batch['id']}", params={"wait": 60}).json()
    seconds = time.perf_counter() - began
    if batch["request_counts"]["completed"] != len(lines):
        raise RuntimeError(f"not every line completed: {batch}")
    return seconds, batch


def _plain_tokens(port: int, work: Sequence[Work]) -> float:
    """Submit over HTTP, poll until all are there; tokens a second."""

    async def run() -> None:
        limits = httpx.Limits(max_connections=CONNECTIONS)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=READ_SECONDS, limits=limits
        ) as client:
            bodies = [{"prompt": item.prompt, "max_tokens": item.num_new_tokens} for item in work]
            answers = await asyncio.gather(*(client.post("/generate", json=body) for body in bodies))
            waiting = [answer.json()["id"] for answer in answers]
            while waiting:  # the oldest first, as they finish in that order
                looks = await asyncio.gather(*(client.get(f"/generate/{task}") for task in waiting[:CONNECTIONS]))
                done = sum(look.json()["status"] == "SUCCESS" for look in looks)
                waiting = waiting[done:]
                if not done:
                    await asyncio.sleep(0.02)

    began = time.perf_counter()
    asyncio.run(run())
    return sum(item.num_new_tokens for item in work) / (time.perf_counter() - began)


def _batches_rate(place: Place, work: Sequence[Work], python: str) -> float:
    """Send the messages, wait for the last result; tokens a second. The first batch also loads the model."""
    sender = Path(__file__).with_name("send_batches.py")
    for part in (work[:1], work):
        (place.folder / "part.json").write_text(json.dumps([[item.prompt, item.num_new_tokens] for item in part]))
        with Redis.from_url(place.redis_url) as redis:
            before = _num_results(redis)
            began = time.perf_counter()
            command = [python, str(sender), str(place.folder / "part.json")]
            subprocess.run(command, check=True, env={"REDIS_URL": place.redis_url})
            _wait_for_results(redis, before + len(part))
            seconds = time.perf_counter() - began
    return sum(item.num_new_tokens for item in work) / seconds


def _wait_for_results(redis: Redis, number: int) -> None:
    wait_until(lambda: _num_results(redis) >= number)


def _num_results(redis: Redis) -> int:
    return sum(1 for key in redis.scan_iter("celery-task-meta-*", count=10_000) if key)


def _no_failures(*loads: Load) -> None:
    for load in loads:
        if load.failures:
            raise RuntimeError(f"{len(load.failures)} requests failed, the first with {load.failures[0]!r}")


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False
