"""Publishes hints by task name: the one module of the service that knows Celery, and it needs no worker code.

A hint is not the job. One that is lost costs a little latency: the workers' keepers find its rows in the table.
"""

import logging
import threading
import time
from queue import SimpleQueue
from uuid import UUID

import redis
from celery import Celery
from kombu.exceptions import KombuError

from models.errors import BatchmillError, BrokerUnavailable
from models.eviction import eviction_warning
from models.fair import AGEING_SECONDS, WINDOW, rooms
from models.messages import (
    GENERATE_CHUNK,
    INTAKE,
    INTAKE_QUEUE,
    NUM_LISTS,
    PRIORITY_STEPS,
    TOP_PRIORITY,
    UNACKED_KEYS,
    chunk_messages,
    redis_lists,
    redis_priority,
)
from models.store import Store

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 2.0  # a Redis slower than this is as good as away; the rows are safe meanwhile
STOP_SECONDS = 3.0
CHUNK = 64  # rows a message: with the window's messages what a round publishes at most in each of a model's lists
MAX_LOAD = 0.2  # the share of time spent publishing: under load rounds are fewer and bigger, alone a job goes at once
MAX_PAUSE_SECONDS = 0.1


class Broker:
    """A thread that publishes stored jobs, so that no answer waits for Redis."""

    def __init__(self, url: str, store: Store, *, ageing_seconds: float = AGEING_SECONDS) -> None:
        self._store, self._ageing_seconds = store, ageing_seconds
        self._app = client(url)
        self._redis = redis.Redis.from_url(url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS)
        self._wake = threading.Event()
        self._batches: SimpleQueue[UUID] = SimpleQueue()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def stop(self) -> None:
        """Publish what waits, then end; bounded, as the workers publish what is left."""
        self._ending.set()
        self._wake.set()
        self._thread.join(STOP_SECONDS)

    def announce(self) -> None:
        """Have the jobs just committed published soon. Never waits, never raises."""
        self._wake.set()

    def announce_batch(self, batch_id: UUID) -> None:
        """Have a worker read the input of a batch soon. Never waits, never raises: the keepers find a lost one."""
        self._batches.put(batch_id)
        self._wake.set()

    def answers(self) -> bool:
        """Whether Redis answers now."""
        try:
            return bool(self._redis.ping())
        except redis.RedisError:
            return False

    def eviction_warning(self) -> str | None:
        """What is wrong with how Redis is set up; None: nothing, or it does not tell."""
        try:
            return eviction_warning(self._redis.info("memory"))
        except redis.RedisError:
            return None

    def _run(self) -> None:
        """Publish until told to end. The connections are closed here and not in stop(), which a silent Redis may keep
        from waiting long enough: a socket must not be closed while it is read from."""
        try:
            self._publish()
        finally:
            self._app.close()
            self._redis.close()

    def _publish(self) -> None:
        """Sleep until something is announced, publish what there is room for, rest."""
        warning = self.eviction_warning()
        if warning is not None:
            log.warning("%s", warning, extra={"action": "redis_evicts"})
        while True:
            self._wake.wait()
            self._wake.clear()
            started = time.monotonic()
            try:
                self._publish_batches()
                self._publish_jobs()
            except BatchmillError as error:
                # Harmless: the rows stay unpublished, and a worker's next look takes them.
                log.warning("publishing failed: %s", error, extra={"action": "publish_failed"})
            if self._ending.is_set():
                return
            took_seconds = time.monotonic() - started
            self._ending.wait(min(took_seconds * (1 / MAX_LOAD - 1), MAX_PAUSE_SECONDS))

    def _publish_batches(self) -> None:
        while not self._batches.empty():
            self._send(INTAKE, str(self._batches.get()), queue=INTAKE_QUEUE, priority=redis_priority(TOP_PRIORITY))

    def _publish_jobs(self) -> None:
        """Publish a window of jobs of each model; the workers, who know how fast they take them, go on from there."""
        for model in sorted(self._store.unannounced_models()):
            places = rooms(self._list_lengths(model), [WINDOW] * NUM_LISTS, chunk=CHUNK)
            taken = self._store.take_for_lists(model, places, ageing_seconds=self._ageing_seconds)
            try:
                for hints in taken:
                    for message in chunk_messages(hints, WINDOW):
                        self._send(GENERATE_CHUNK, message.ids, queue=message.queue, priority=message.redis_priority)
            except BrokerUnavailable:
                self._store.unpublish([hint.id for hints in taken for hint in hints])
                raise

    def _list_lengths(self, model: str) -> list[int]:
        """How many messages wait in each of a model's lists."""
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for name in redis_lists(model):
                    pipeline.llen(name)
                return pipeline.execute()
        except redis.RedisError as error:
            raise BrokerUnavailable from error

    def _send(self, task: str, argument: str | list[str], *, queue: str, priority: int) -> None:
        """`priority` is Redis's."""
        try:
            self._app.send_task(
                task,
                args=(argument,),
                queue=queue,
                priority=priority,
                ignore_result=True,
                retry=False,
                argsrepr="-",
                kwargsrepr="-",
            )
        except (KombuError, redis.RedisError, OSError) as error:
            raise BrokerUnavailable from error


def client(url: str) -> Celery:
    """A Celery application that can only send: no tasks, no result backend, and it gives up soon."""
    app = Celery("batchmill-api", broker=url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        task_ignore_result=True,
        task_create_missing_queues=True,
        broker_connection_timeout=TIMEOUT_SECONDS,
        broker_transport_options={
            **UNACKED_KEYS,
            "priority_steps": PRIORITY_STEPS,
            "queue_order_strategy": "priority",
            "socket_timeout": TIMEOUT_SECONDS,
            "socket_connect_timeout": TIMEOUT_SECONDS,
            "max_retries": 0,  # kombu's default is to try for ever
        },
    )
    return app
