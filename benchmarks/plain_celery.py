"""The peer of benchmarks.queue: Celery as it comes, with a task that does nothing."""

import os

from celery import Celery

app = Celery("plain", broker=os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"))
app.conf.update(task_ignore_result=True, worker_disable_rate_limits=True, broker_connection_retry_on_startup=True)


@app.task(name="nothing")
def nothing(prompt: str) -> None:
    """Do nothing."""
