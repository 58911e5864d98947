"""The tasks' names and signatures. Their bodies never run: DecodePool takes their messages by name."""

from typing import Any, NoReturn

from celery import shared_task

from models.messages import GENERATE, GENERATE_CHUNK, INTAKE

QUIET_REQUEST = "worker.request:QuietRequest"  # a name: producers need not import Celery's worker
WRONG_POOL = "this worker runs another pool; start it with worker_pool = worker.pool:DecodePool"


@shared_task(name=GENERATE, typing=False, Request=QUIET_REQUEST)
def generate(prompt: object = None, **parameters: Any) -> NoReturn:  # noqa: ANN401 (checked by models.requests)
    """One job sent inline; the task id is the job id. `parameters` are those of POST /v1/completions."""
    raise RuntimeError(WRONG_POOL)


@shared_task(name=GENERATE_CHUNK, typing=False, Request=QUIET_REQUEST)
def generate_chunk(ids: list[str]) -> NoReturn:
    """Up to 256 ids of one model whose payloads are in the database."""
    raise RuntimeError(WRONG_POOL)


@shared_task(name=INTAKE, typing=False)
def intake(batch_id: str) -> NoReturn:
    """A batch whose input is to be read: the worker looks into the batches table now rather than a second later."""
    raise RuntimeError(WRONG_POOL)
