"""Ringing the bell: turns queued rows into Celery messages, and finds out when Redis has lost some."""

import time
from collections.abc import Iterable, Sequence

from celery import Celery
from kombu.exceptions import KombuError
from redis import Redis
from redis.exceptions import RedisError

from models.errors import BrokerUnavailable
from models.fair import AGEING_SECONDS, WINDOW, Room, rooms
from models.messages import GENERATE_CHUNK, MARKER_KEY, NUM_LISTS, SPREAD, ChunkMessage, chunk_messages, redis_lists
from models.store import Store

RELAY_CHUNK = 64  # rows a message, where nobody knows how many an engine holds
REPAIR_LIMIT = 20_000  # rows found lost at a time: some tenths of a second
QUIET_SECONDS = 5.0  # a message this old in an empty broker was lost
REDIS_TIMEOUT_SECONDS = 2.0


def redis_client(url: str) -> Redis:
    """A connection for looking into the broker, with short timeouts."""
    return Redis.from_url(url, socket_timeout=REDIS_TIMEOUT_SECONDS, socket_connect_timeout=REDIS_TIMEOUT_SECONDS)


def list_lengths(redis: Redis, model: str) -> list[int]:
    """How many messages wait in each of a model's lists. Raises BrokerUnavailable."""
    try:
        with redis.pipeline(transaction=False) as pipeline:
            for name in redis_lists(model):
                pipeline.llen(name)
            return pipeline.execute()
    except RedisError as error:
        raise BrokerUnavailable from error


def publish(app: Celery, messages: Iterable[ChunkMessage]) -> None:
    """Send messages, many in one round trip. Raises BrokerUnavailable; some may have gone out."""
    try:
        with app.producer_pool.acquire(block=True) as producer, producer.batch(max_size=1000):
            for message in messages:
                app.send_task(
                    GENERATE_CHUNK,
                    args=(message.ids,),
                    queue=message.queue,
                    priority=message.redis_priority,
                    producer=producer,
                    ignore_result=True,
                    retry=False,
                    argsrepr="-",
                    kwargsrepr="-",
                )
    except (KombuError, RedisError, OSError) as error:
        raise BrokerUnavailable from error


def announce(app: Celery, store: Store, model: str, rooms: Sequence[Room], ageing_seconds: float) -> list[int]:
    """Publish what there is room for in each of a model's lists, and before it what dead workers held; returns how many
    rows each list got. Raises BrokerUnavailable, and the rows stay unpublished."""
    given_back, *taken = store.take_for_lists(model, rooms, ageing_seconds=ageing_seconds)
    messages = [*chunk_messages(given_back, SPREAD)]
    for hints, room in zip(taken, rooms, strict=True):
        messages += chunk_messages(hints, room.num_messages)
    if not messages:
        return [0] * len(rooms)
    try:
        publish(app, messages)
    except BrokerUnavailable:
        store.unpublish([hint.id for hints in (given_back, *taken) for hint in hints])
        raise
    return [len(hints) for hints in taken]


def relay(app: Celery, store: Store, *, model: str | None = None, ageing_seconds: float = AGEING_SECONDS) -> int:
    """Publish queued rows that have no message yet, of one model or of any, a small window of them; a worker's supply
    goes on from there. Returns how many. Raises BrokerUnavailable."""
    num = 0
    with redis_client(app.conf.broker_url) as redis:
        for name in [model] if model is not None else sorted(store.unannounced_models()):
            room = rooms(list_lengths(redis, name), [WINDOW] * NUM_LISTS, chunk=RELAY_CHUNK)
            num += sum(announce(app, store, name, room, ageing_seconds))
    return num


class HintRepair:
    """Notices that published messages are gone and has their rows published again. Repeating one is harmless."""

    def __init__(self, store: Store, redis: Redis, *, model: str) -> None:
        self._store, self._redis, self.model = store, redis, model
        self._lost_at: float | None = None  # when all that was published was found gone, until every row is seen to

    def check(self, *, num_waiting: int) -> int:
        """Have rows without a message published again, not too many at a time; returns how many. `num_waiting` rows lie
        in our own inbox and are no reason to look further. Raises BrokerUnavailable."""
        try:
            if self._redis.set(MARKER_KEY, "1", nx=True):  # Redis is empty or new: flushed, restarted, evicted
                self._lost_at = time.monotonic()
        except RedisError as error:
            raise BrokerUnavailable from error
        if self._lost_at is not None:
            return self._unpublish_lost(self._lost_at)
        if self._is_quiet() and self._store.has_more_announced(self.model, num_waiting):
            return self._store.unpublish_queued(model=self.model, older_than_seconds=QUIET_SECONDS, limit=REPAIR_LIMIT)
        return 0

    def _unpublish_lost(self, lost_at: float) -> int:
        num = self._store.unpublish_queued(older_than_seconds=time.monotonic() - lost_at, limit=REPAIR_LIMIT)
        if num < REPAIR_LIMIT:
            self._lost_at = None
        return num

    def _is_quiet(self) -> bool:
        """Whether no message of our model waits; then a row that is still queued some time later has lost its own.

        Messages popped and not yet claimed are not counted: they may be in the hands of a dead worker, and a second
        message for a row costs nothing, nor do they pile up, as the queue is no longer empty then.
        """
        return not any(list_lengths(self._redis, self.model))
