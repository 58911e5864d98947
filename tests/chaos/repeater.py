"""Announces the service's jobs once more, from outside: a message may come any number of times, at any moment."""

from uuid import UUID

from sqlalchemy import select

from models.database import Database
from models.messages import TOP_PRIORITY, ChunkMessage, queue_of, redis_priority
from models.settings import load_settings
from models.status import Status
from models.tables import jobs
from worker.celery_app import create_app
from worker.hints import publish


class Repeater:
    """Sees every queued job in the database, and sends messages of its own to the workers' queue."""

    def __init__(self, database_url: str, redis_port: int) -> None:
        self._database = Database(database_url)
        self._app = create_app(load_settings(redis_url=f"redis://127.0.0.1:{redis_port}/0"))
        self._announced: set[UUID] = set()

    def announce(self, times: int) -> None:
        """Publish the jobs that were not yet announced here, in so many equal messages at once."""
        with self._database.read() as connection:
            new = set(connection.scalars(select(jobs.c.id).where(jobs.c.status == Status.QUEUED))) - self._announced
        if new:
            ids = [str(id) for id in sorted(new)]
            publish(self._app, [ChunkMessage(ids, queue_of("noop"), redis_priority(TOP_PRIORITY))] * times)
            self._announced |= new

    def close(self) -> None:
        """End every connection."""
        self._app.close()
        self._database.dispose()
