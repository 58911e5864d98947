"""Ringing the bell: turns queued rows into Celery messages, and finds out when Redis has lost some."""

from collections.abc import Iterable

from celery import Celery
from kombu.exceptions import KombuError
from redis import Redis
from redis.exceptions import RedisError

from models.errors import BrokerUnavailable
from models.messages import GENERATE_CHUNK, MARKER_KEY, chunk_messages, redis_lists
from models.records import Hint
from models.store import Store

RELAY_LIMIT = 20_000  # hints a beat: a second's work for one worker, so that a flood cannot hold up its heartbeat
QUIET_SECONDS = 5.0  # a message this old in an empty broker was lost
REDIS_TIMEOUT_SECONDS = 2.0


def redis_client(url: str) -> Redis:
    """A connection for looking into the broker, with short timeouts."""
    return Redis.from_url(url, socket_timeout=REDIS_TIMEOUT_SECONDS, socket_connect_timeout=REDIS_TIMEOUT_SECONDS)


def publish(app: Celery, hints: Iterable[Hint]) -> None:
    """Send the hints as chunk messages, many in one round trip. Raises BrokerUnavailable; some may have gone out."""
    try:
        with app.producer_pool.acquire(block=True) as producer, producer.batch(max_size=1000):
            for message in chunk_messages(hints):
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


def relay(app: Celery, store: Store, *, model: str | None = None, limit: int = RELAY_LIMIT) -> int:
    """Publish queued rows that have no message yet, of one model (quick) or of any (50 ms at 200,000 queued); returns
    how many. Raises BrokerUnavailable, and the rows stay unpublished."""
    hints = store.take_unpublished(limit, model=model)
    if not hints:
        return 0
    try:
        publish(app, hints)
    except BrokerUnavailable:
        store.unpublish([hint.id for hint in hints])
        raise
    return len(hints)


class HintRepair:
    """Notices that published messages are gone and has their rows published again. Repeating one is harmless."""

    def __init__(self, store: Store, redis: Redis, *, model: str) -> None:
        self._store, self._redis, self.model = store, redis, model

    def check(self, *, num_waiting: int) -> int:
        """Have rows without a message published again; returns how many. `num_waiting` rows lie in our own
        inbox and are no reason to look further. Raises BrokerUnavailable."""
        try:
            if self._redis.set(MARKER_KEY, "1", nx=True):  # Redis is empty or new: flushed, restarted, evicted
                return self._store.unpublish_queued()
            if self._is_quiet() and self._store.queue_depth().get(self.model, 0) > num_waiting:
                return self._store.unpublish_queued(model=self.model, older_than_seconds=QUIET_SECONDS)
        except RedisError as error:
            raise BrokerUnavailable from error
        return 0

    def _is_quiet(self) -> bool:
        """Whether no message of our model waits; then a row that is still queued some time later has lost its own.

        Messages popped and not yet claimed are not counted: they may be in the hands of a dead worker, and a second
        message for a row costs nothing, nor do they pile up, as the queue is no longer empty then.
        """
        with self._redis.pipeline(transaction=False) as pipeline:
            for name in redis_lists(self.model):
                pipeline.llen(name)
            return not any(pipeline.execute())
