"""The peer: what a user would otherwise write. FastAPI in front, a plain Celery task a prompt, Redis for the results.

With BENCH_MODEL (a model folder) the task decodes with Hugging Face generate, one prompt at a time; without, it
answers at once.
"""

import os
from pathlib import Path
from typing import Any

from celery import Celery
from celery.result import AsyncResult
from fastapi import FastAPI

REDIS_URL = os.environ["REDIS_URL"]
app = Celery("plain", broker=REDIS_URL, backend=REDIS_URL)
app.conf.update(task_default_queue="plain", worker_prefetch_multiplier=4, broker_connection_retry_on_startup=True)
api = FastAPI()
_loaded: dict[str, Any] = {}


def decode(prompts: list[list[int]], num_new_tokens: list[int]) -> list[list[int]]:
    """Hugging Face generate over one padded batch; without a model nothing."""
    folder = os.environ.get("BENCH_MODEL")
    if not folder:
        return [prompt[:num] for prompt, num in zip(prompts, num_new_tokens, strict=True)]
    import torch

    from benchmarks.engine.hugging_face import Padded, load_hugging_face
    from benchmarks.engine.work import Work

    if not _loaded:
        torch.set_num_threads(1)
        _loaded["decode"] = Padded(load_hugging_face(Path(folder), "float32"), by_length=False)
    work = [Work(prompt, num) for prompt, num in zip(prompts, num_new_tokens, strict=True)]
    tokens: list[list[int]] = _loaded["decode"](work)
    return tokens


@app.task(name="plain.generate")
def generate(prompt: list[int], max_tokens: int) -> list[int]:
    """One prompt."""
    return decode([prompt], [max_tokens])[0]


@api.post("/generate")
def submit(body: dict[str, Any]) -> dict[str, str]:
    """Queue a prompt."""
    return {"id": generate.delay(body["prompt"], body["max_tokens"]).id}


@api.get("/generate/{task_id}")
def result(task_id: str) -> dict[str, Any]:
    """Poll one."""
    found: AsyncResult[Any] = app.AsyncResult(task_id)
    return {"status": found.status, "result": found.result if found.successful() else None}
