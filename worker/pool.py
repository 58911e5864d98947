"""DecodePool: a Celery pool whose "processes" are the rows decoded together.

Celery's consumer, Request, events, revoke and inspect run unchanged; this class turns what they hand to a pool into
deliveries for the feeder, and reports back when rows are claimed and when their results are committed.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

from celery import signals
from celery.concurrency.base import BasePool, apply_target
from celery.worker import state as celery_state

from models.errors import BatchmillError
from models.logs import UNHEALTHY
from models.messages import GENERATE, GENERATE_CHUNK, INTAKE
from worker.celery_app import BatchmillApp
from worker.crashes import EXIT_CRASHED, UnhealthyError
from worker.deliveries import Delivery
from worker.engine.types import EngineError
from worker.mill import Mill
from worker.rows import inline_delivery, listed_delivery

log = logging.getLogger(__name__)

SAME_SIGNAL_SECONDS = 1.0
EXIT_CONFIGURATION = 78  # sysexits' EX_CONFIG: starting again unchanged does not help


class DecodePool(BasePool):
    """Celery-facing side of the worker. Methods are called by Celery on its main thread and do no I/O."""

    body_can_be_buffer = True
    signal_safe = False  # stopping waits for rows, which a signal handler must not

    hub: Any = None
    mill: Mill | None = None
    stopping = False
    _told_at: float | None = None  # when the first signal to stop came
    _told_again = False

    def on_start(self) -> None:
        """Load the model and start the threads. A worker that cannot work says why in one sentence and exits."""
        signals.worker_shutting_down.connect(self._note_signal)
        try:
            mill = Mill(
                cast(BatchmillApp, self.app),
                on_accepted=partial(self._report, Delivery.accepted),
                on_finished=partial(self._report, Delivery.finished),
                on_room=self._wake,
                on_drain=self._drain,
                on_crash=self._crash,
            )
            self.mill = mill
            self.limit = mill.rows  # what `inspect stats` calls max-concurrency
            mill.start()
        except UnhealthyError as error:
            log.critical("%s%s", UNHEALTHY, error, extra={"action": "unhealthy"})
            raise SystemExit(EXIT_CRASHED) from error
        except (BatchmillError, EngineError) as error:
            sys.stderr.write(f"batchmill: {error}\n")
            raise SystemExit(EXIT_CONFIGURATION) from error
        self._others = ThreadPoolExecutor(1, "tasks")

    def register_with_event_loop(self, loop: Any) -> None:  # noqa: ANN401 (kombu's Hub)
        """Keep the hub: its loop runs our callbacks."""
        self.hub = loop

    def on_apply(
        self,
        target: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        callback: Callable[[Any], None] | None = None,
        accept_callback: Callable[[int, float], None] | None = None,
        **_: Any,  # noqa: ANN401
    ) -> Delivery | None:
        """Take a task: a generation becomes a delivery, anything else runs as Celery would run it, on one thread."""
        name, task_id, request = args[0], args[1], args[2]
        if name not in (GENERATE, GENERATE_CHUNK, INTAKE):
            self._others.submit(apply_target, target, args, kwargs, callback, accept_callback)
            return None
        mill = self._running()
        if name == INTAKE:
            delivery = Delivery([])
        elif name == GENERATE:
            args, kwargs, linked = request["args"], request["kwargs"], request["linked"]
            delivery = inline_delivery(task_id, args, kwargs, model=mill.model, linked=linked)
        else:
            delivery = listed_delivery(request["args"], request["delivery_info"])
        started = time.monotonic()
        if accept_callback is not None:
            delivery.on_accepted = lambda: accept_callback(os.getpid(), time.monotonic())
        if callback is not None:
            delivery.on_finished = lambda: callback((0, None, time.monotonic() - started))
        if name == INTAKE:
            mill.reader.wake()
            self._report(Delivery.accepted, [delivery])
            self._report(Delivery.finished, [delivery])
        else:
            mill.feeder.deliver(delivery)
        return delivery

    def wants_more(self) -> bool:
        """Whether the consumer may pop another message: fewer jobs stand ready than are wanted."""
        return not self.stopping and self._running().feeder.wants_more

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Do nothing: see Delivery.terminate."""

    def on_stop(self) -> None:
        """Warm shutdown, after SIGTERM: finish what can be finished in the grace time, give the rest back."""
        if self.mill is not None and not self.stopping:
            self.stopping = True  # the hub's loop is over: callbacks run directly from here on
            self.mill.drain(hurry=self._is_hurried)
            self._others.shutdown(wait=False, cancel_futures=True)

    def on_terminate(self) -> None:
        """Cold shutdown: give everything back at once."""
        if self.mill is not None and not self.stopping:
            self.stopping = True
            self.mill.drain(hurry=lambda: True)

    def _note_signal(self, **_: object) -> None:
        """To Celery a second SIGTERM says what the first one did. Of two at once one is a supervisor's that tells every
        process of a group, beside the one of the process that started us."""
        if self._told_at is None:
            self._told_at = time.monotonic()
        elif time.monotonic() - self._told_at > SAME_SIGNAL_SECONDS:
            self._told_again = True

    def _drain(self) -> None:
        """Stop as a supervisor would have it, once: a worker that drains already shows so itself."""
        if self._told_at is None and not self.stopping:
            os.kill(os.getpid(), signal.SIGTERM)

    def _is_hurried(self) -> bool:
        return self._told_again or celery_state.should_terminate is not None

    def _report(self, event: Callable[[Delivery], None], deliveries: Sequence[Delivery]) -> None:
        """Run deliveries' callbacks where Celery expects them: on the hub's thread."""
        for delivery in deliveries:
            if self.hub is not None and not self.stopping:
                self.hub.call_soon(event, delivery)
            else:
                event(delivery)

    def _wake(self) -> None:
        """Make the consumer look again whether the pool wants more, now rather than at its next timer."""
        if self.hub is not None and not self.stopping and self.wants_more():
            self.hub.call_soon(_nothing)

    def _crash(self) -> None:
        """A part failed, for which no row is to blame: give the rows back and let a supervisor start anew."""
        mill = self._running()
        mill.give_back()
        os._exit(os.EX_SOFTWARE)

    def _running(self) -> Mill:
        if self.mill is None:
            raise RuntimeError("the pool has not started")
        return self.mill

    def _get_info(self) -> dict[str, Any]:
        """What `celery inspect stats` shows of this pool."""
        info: dict[str, Any] = super()._get_info()
        return info | (self.mill.stats() if self.mill is not None else {})


def _nothing() -> None:
    """Only wakes the loop."""
