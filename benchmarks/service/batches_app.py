"""The other peer: celery-batches, which hands a task up to 64 messages at once.

It needs a Celery older than ours, and so an environment of its own.
"""

import os
from typing import Any

from celery import Celery
from celery_batches import Batches

from benchmarks.service.plain_app import decode

FLUSH_EVERY = 64
REDIS_URL = os.environ["REDIS_URL"]
app = Celery("batches", broker=REDIS_URL, backend=REDIS_URL)
app.conf.update(
    task_default_queue="batches", worker_prefetch_multiplier=FLUSH_EVERY, broker_connection_retry_on_startup=True
)


@app.task(base=Batches, flush_every=FLUSH_EVERY, flush_interval=0.2, name="batches.generate")
def generate(requests: list[Any]) -> None:
    """A static batch: all of it waits for its longest answer."""
    answers = decode([request.args[0] for request in requests], [request.args[1] for request in requests])
    for request, answer in zip(requests, answers, strict=True):
        app.backend.mark_as_done(request.id, answer, request=request)
