"""A look at Redis when a worker starts. It warns and never refuses: without Redis a worker works, only later."""

import logging

from redis import Redis
from redis.exceptions import RedisError

from models.eviction import eviction_warning

log = logging.getLogger(__name__)


def warn_of_eviction(redis: Redis) -> None:
    """Say so where Redis may evict messages."""
    try:
        warning = eviction_warning(redis.info("memory"))
    except RedisError as error:
        log.warning("Redis does not tell its policy: %s", error, extra={"action": "redis_unknown"})
        return
    if warning is not None:
        log.warning("%s", warning, extra={"action": "redis_evicts"})
