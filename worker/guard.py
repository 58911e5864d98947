"""What is no task never reaches Celery, which ends the worker at it, and its successor, to which it is delivered again.

Anyone who can write to the queue can send anything. Of what is refused nothing is logged but its size.
"""

import logging
from collections.abc import Callable
from typing import Any

from celery import bootsteps

log = logging.getLogger(__name__)

Handler = Callable[[Any], object]


class TaskGuard(bootsteps.StartStopStep):
    """Wraps the handler of messages that each connection's loop asks the consumer for."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:  # noqa: ANN401 (Celery ships no types)
        """Called on every (re)connection."""
        make = type(consumer).create_task_handler

        def make_guarded(*args: Any, **kwargs: Any) -> Handler:  # noqa: ANN401
            return guarded(make(consumer, *args, **kwargs), consumer.connection_errors)

        consumer.create_task_handler = make_guarded


def guarded(handle: Handler, connection_errors: tuple[type[Exception], ...]) -> Handler:
    """A handler that rejects what is no task."""

    def on_message(message: Any) -> object:  # noqa: ANN401
        if is_task(message):
            return handle(message)
        log.warning("a message of %d bytes is no task", len(message.body or ""), extra={"action": "message_rejected"})
        return message.reject_log_error(log, connection_errors)

    return on_message


def is_task(message: Any) -> bool:  # noqa: ANN401
    """Whether a message has the form of Celery's protocol 2, whose task is in the headers, or of 1."""
    headers = message.headers or {}
    try:
        payload = message.payload
    except Exception:  # any that a decoder may raise at a stranger's bytes
        return False
    if "task" in headers and isinstance(payload, list | tuple) and len(payload) == 3:
        id, (args, kwargs, embedded) = headers.get("id"), payload
    elif "task" not in headers and isinstance(payload, dict):
        id, args, kwargs, embedded = payload.get("id"), payload.get("args", []), payload.get("kwargs", {}), {}
    else:
        return False
    return (
        isinstance(id, str)
        and isinstance(args, list | tuple)
        and isinstance(kwargs, dict)
        and isinstance(embedded, dict)
    )
