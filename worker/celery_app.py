"""The Celery application: settings only, each with its reason. Importable by producers: no torch, no engine."""

import logging

from celery import Celery, signals
from kombu.entity import Exchange, Queue

from models.logs import formatter
from models.messages import INTAKE_QUEUE, PRIORITY_STEPS, UNACKED_KEYS, queue_of
from models.settings import Settings, load_settings

DEFAULT_ROWS = 64  # until the engine has loaded and knows better; bounds only how many messages are held

TRANSPORT_OPTIONS = {
    **UNACKED_KEYS,
    "visibility_timeout": 60,  # covers only messages not yet claimed; a claimed row is covered by its lease
    "unacked_restore_interval": 2,  # look for such messages every 2 s, not every 100 s
    "unacked_restore_throttle": 1,
    "socket_timeout": 15,  # above the 1 s of a blocking pop, so that only a dead connection meets it
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "priority_steps": PRIORITY_STEPS,
    "queue_order_strategy": "priority",
    # retry_on_timeout and retry_on_error stay unset: with them kombu turns Producer.batch off.
}


class BatchmillApp(Celery):
    """A Celery application that carries our settings to the pool."""

    settings: Settings


def create_app(settings: Settings) -> BatchmillApp:
    """Build the application for one worker or producer."""
    app = BatchmillApp("batchmill", broker=settings.broker)
    app.settings = settings
    app.conf.update(
        # AsyncResult(job_id) reads the jobs table; "module:Class+url" is Celery's syntax for one's own backend.
        result_backend=f"worker.result_backend:JobsBackend+{settings.database}",
        include=["worker.tasks"],
        # JSON only: a pickle on the wire is code.
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        # One queue a model, and one of batches to be read for all workers. A worker takes from those listed unless -Q
        # says otherwise; any other model's queue is created when first named.
        task_default_queue=queue_of(settings.model_name),
        task_queues=[_queue(queue_of(settings.model_name)), _queue(INTAKE_QUEUE)],
        task_create_missing_queues=True,
        worker_pool="worker.pool:DecodePool",
        worker_concurrency=DEFAULT_ROWS if settings.rows == "auto" else settings.rows,
        # The pool counts jobs, not messages (worker/prefetch.py); this only bounds a burst of messages.
        worker_prefetch_multiplier=1,
        worker_enable_prefetch_count_reduction=False,
        # Rows belong to the lease in the database, not to the connection. (The default changes in Celery 6.)
        worker_cancel_long_running_tasks_on_connection_loss=False,
        task_acks_late=False,  # acknowledged when the claim is committed: from then on the lease covers the row
        task_ignore_result=True,  # the writer commits results in groups; Celery would store them one by one
        task_store_errors_even_if_ignored=True,  # so that a revoke reaches the jobs table
        worker_disable_rate_limits=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # with the default of 100 a worker gives up for good
        broker_transport_options=TRANSPORT_OPTIONS,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    from worker.guard import TaskGuard
    from worker.prefetch import JobPrefetch

    app.steps["consumer"].update((JobPrefetch, TaskGuard))
    return app


def _queue(name: str) -> Queue:
    """A queue as Celery makes a missing one: with an exchange and a routing key of its own."""
    return Queue(name, Exchange(name), routing_key=name)  # type: ignore[no-untyped-call]


@signals.after_setup_logger.connect
def _set_up_log(**_: object) -> None:
    """Our form of log lines, and not one a message: a message may be a job, and a worker takes thousands a second."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter(app.settings))
    for name in ("celery.worker.strategy", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.WARNING)


app = create_app(load_settings())
