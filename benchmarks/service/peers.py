"""The peers at work: FastAPI with plain Celery, and celery-batches."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from redis import Redis

from benchmarks.engine.work import Work
from benchmarks.service.load import Connection, get, post
from benchmarks.service.place import Place, answers
from benchmarks.service.processes import celery, running, wait_until

CONNECTIONS = 32


def start_plain(stack: ExitStack, place: Place, port: int, model: str) -> None:
    """FastAPI and a plain Celery worker."""
    environment = {"REDIS_URL": place.redis_url, "BENCH_MODEL": model}
    api = [sys.executable, "-m", "uvicorn", "benchmarks.service.plain_app:api", "--port", str(port), "--no-access-log"]
    stack.enter_context(running(api, environment, place.folder / "plain-api.log"))
    stack.enter_context(running(celery("benchmarks.service.plain_app"), environment, place.folder / "plain-worker.log"))
    wait_until(lambda: answers(f"http://127.0.0.1:{port}/openapi.json"), 60)


def plain_tokens(port: int, work: Sequence[Work]) -> float:
    """Submit over HTTP, poll until all are there; tokens a second."""

    async def run() -> None:
        connections = [await Connection.open(port) for _ in range(CONNECTIONS)]
        bodies = [json.dumps({"prompt": item.prompt, "max_tokens": item.num_new_tokens}) for item in work]
        answers = await _ask_all(connections, [post("/generate", body.encode()) for body in bodies])
        waiting = [answer["id"] for answer in answers]
        while waiting:  # the oldest first, as they finish in that order
            looks = await _ask_all(connections, [get(f"/generate/{task}") for task in waiting[:CONNECTIONS]])
            done = sum(look["status"] == "SUCCESS" for look in looks)
            waiting = waiting[done:]
            if not done:
                await asyncio.sleep(0.02)

    began = time.perf_counter()
    asyncio.run(run())
    return sum(item.num_new_tokens for item in work) / (time.perf_counter() - began)


async def _ask_all(connections: Sequence[Connection], requests: Sequence[bytes]) -> list[dict[str, Any]]:
    """Every answer, in order; httpx with thousands of requests waiting for a connection costs more than the peer."""
    answers: list[dict[str, Any]] = [{} for _ in requests]
    numbers = iter(range(len(requests)))

    async def ask(connection: Connection) -> None:
        for number in numbers:
            _, body = await connection.ask(requests[number])
            answers[number] = json.loads(body)

    await asyncio.gather(*map(ask, connections))
    return answers


def batches_rate(place: Place, work: Sequence[Work], python: str) -> float:
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
