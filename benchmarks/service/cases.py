"""The three cases: tokens a second through the whole service, submits a second, and a large batch end to end."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import mean, median
from typing import Any

import httpx

from benchmarks.engine.work import SHAPES, Work, make_work, save_model
from benchmarks.service.load import Load, closed_loop, open_loop, post
from benchmarks.service.peers import CONNECTIONS, batches_rate, plain_tokens, start_plain
from benchmarks.service.place import open_place, start_api, start_worker
from benchmarks.service.processes import celery, free_port, older_celery, running

ROWS = 128
ROUNDS = 3
PEER_JOBS = 32  # of plain Celery, which decodes one at a time
STEADY_RATE = 200.0


def tokens_case(folder: Path, num_jobs: int) -> dict[str, float]:
    """Tokens a second of the same ragged greedy prompts: the engine alone, the service, and the peers."""
    spec = SHAPES["15M"]
    model = folder / "bench-15m"
    model.mkdir()
    save_model(model, spec)
    works = [make_work(spec, num_jobs, seed=seed) for seed in range(7, 7 + ROUNDS)]
    alone, served, shares = [], [], []
    with ExitStack() as stack:
        place = open_place(stack, folder)
        start_api(stack, place)
        start_worker(stack, place, str(model), BATCHMILL_ROWS=str(ROWS), BATCHMILL_DTYPE="float32")
        client = stack.enter_context(place.client())
        _run_batch(client, [_line(model.name, item, i) for i, item in enumerate(make_work(spec, 40, seed=98))])
        for work in works:  # between two runs of the engine, as a machine's pace changes by more than separates them
            before = _bare_engine(model, folder, work)
            seconds, batch = _run_batch(client, [_line(model.name, item, i) for i, item in enumerate(work)])
            alone += [before, _bare_engine(model, folder, work)]
            served.append(batch["usage"]["output_tokens"] / seconds)
            shares.append(served[-1] / mean(alone[-2:]))
    figures = {"bare engine": median(alone), "service": median(served), "share of the bare engine": median(shares)}
    figures |= {"least share": min(shares), "greatest share": max(shares)}
    work = works[0]
    with ExitStack() as stack:
        place = open_place(stack, folder / "peers")
        port = free_port()
        start_plain(stack, place, port, str(model))
        plain_tokens(port, work[:1])  # loads the model
        figures["FastAPI + Celery + HF generate"] = plain_tokens(port, work[:PEER_JOBS])
        python = older_celery(folder / "older")
        environment = {"REDIS_URL": place.redis_url, "BENCH_MODEL": str(model)}
        log = folder / "batches.log"
        stack.enter_context(running(celery("benchmarks.service.batches_app", python), environment, log))
        figures["celery-batches(64) + HF generate"] = batches_rate(place, work, python)
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
        plain_tokens(port, work)
        figures["FastAPI + Celery jobs/s"] = num_peer / (time.perf_counter() - began)
        python = older_celery(folder / "older")
        log, environment = folder / "batches.log", {"REDIS_URL": place.redis_url}
        stack.enter_context(running(celery("benchmarks.service.batches_app", python), environment, log))
        figures["celery-batches(64) jobs/s"] = batches_rate(place, work, python)
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


def _no_failures(*loads: Load) -> None:
    for load in loads:
        if load.failures:
            raise RuntimeError(f"{len(load.failures)} requests failed, the first with {load.failures[0]!r}")
